"""Spans of requests and of their stages, where OpenTelemetry is installed and set up by operators.

W3C trace context is taken up with OpenTelemetry's API. What becomes of the spans is up to an SDK
that operators bring (`opentelemetry-instrument`, for one); without it nothing is recorded or sent.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from medfocus.engine.runtime.metrics import STAGES, Observer, Span

try:
    from opentelemetry import propagate, trace
except ImportError:  # nobody wants traces
    _TRACED = False
else:
    _TRACED = True

NAME = "medfocus.serving"  # of what makes the spans


@contextmanager
def server_span(headers: Mapping[str, str]) -> Iterator[None]:
    """The current span while a request is answered, with its client's span as parent.

    Args:
        headers: of the request, names in lower case; `traceparent` and `tracestate` are taken up.
    """
    if not _TRACED:
        yield
        return
    instrumented = trace.get_current_span().get_span_context().is_valid
    with trace.get_tracer(NAME).start_as_current_span(
        "request",
        None if instrumented else propagate.extract(headers),
        trace.SpanKind.SERVER,
        record_exception=False,  # its text may quote a patient's data
        set_status_on_exception=False,
    ):
        yield


def describe_request(method: str, route: str, status: int, code: str) -> None:
    """Name the current span, and say how its request ended.

    Args:
        method: HTTP's, or `gRPC`.
        route: without anything that a client chose.
        status: HTTP's.
        code: of the error; "" without one.
    """
    if not _TRACED:
        return
    span = trace.get_current_span()
    if method == "gRPC":
        span.update_name(route.strip("/"))
        span.set_attributes({"rpc.system": "grpc", "rpc.method": route.strip("/")})
    else:
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.request.method": method, "http.route": route})
        span.set_attribute("http.response.status_code", status)
    if code:
        span.set_attribute("error.type", code)
    if status >= 500:  # what is the client's fault is not the server's error
        span.set_status(trace.StatusCode.ERROR)


def describe_work(engine: str, version: str, images: int) -> Observer | None:
    """Say in the current span what engine works on how many images.

    Returns:
        What makes spans of the stages, as its children; None if nobody records them.
    """
    if not _TRACED or not (parent := trace.get_current_span()).is_recording():
        return None
    known = {"medfocus.engine": engine, "medfocus.engine.version": version}
    parent.set_attributes({**known, "medfocus.images": images})
    context = trace.set_span_in_context(parent)

    def observe(spans: Sequence[Span]) -> None:
        offset = time.time_ns() - time.perf_counter_ns()
        for stage, begun, ended, attributes in stages_of(spans):
            span = trace.get_tracer(NAME).start_span(
                stage,
                context,
                attributes={**known, **attributes},
                start_time=offset + round(begun * 1e9),
            )
            span.end(offset + round(ended * 1e9))

    return observe


def describe_errors(codes: Sequence[str]) -> None:
    """Say in the current span which errors images had."""
    if _TRACED and codes:
        trace.get_current_span().set_attribute("medfocus.image_errors", sorted(set(codes)))


def stages_of(spans: Sequence[Span]) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    """The stages that a request's images went through, one of each kind per batch.

    Args:
        spans: of the work on these images, and on their batches.

    Yields:
        A stage's name, when it began and ended on the clock of `time.perf_counter`, and attributes:
        how many images, and for a stage of a whole batch those of other requests too.
    """

    def key(span: Span) -> tuple[int, int]:
        return -1 if span.batch is None else span.batch, STAGES.index(span.stage)

    for _, group in groupby(sorted(spans, key=key), key):
        alike = list(group)
        stage, attributes = alike[0].stage, {"medfocus.images": sum(one.images for one in alike)}
        if stage == "prepare":
            taken = [one.begun - one.waited for one in alike]
            submitted = min(one.begun - one.waited - one.queued for one in alike)
            yield "queue", submitted, max(taken), attributes
        elif stage != "read":
            attributes["medfocus.batch_size"] = attributes.pop("medfocus.images")
        yield stage, min(one.begun for one in alike), max(one.ended for one in alike), attributes

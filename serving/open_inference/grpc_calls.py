"""One call over gRPC: who may make it, its message, its answer or error, its line in the log."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from medfocus.errors import MedfocusError
from medfocus.serving.engines import RETRY_SECONDS
from medfocus.serving.monitoring import traces
from medfocus.serving.monitoring.access_log import log_request
from medfocus.serving.open_inference.grpc_methods import Method
from medfocus.serving.open_inference.grpc_reading import Reader
from medfocus.serving.problems import status_of
from medfocus.serving.security.access import check_role
from medfocus.serving.state import Service

_INTERNAL = grpc.StatusCode.INTERNAL
_CODES = {  # by HTTP status
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,  # as the library answers above its own limit
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_MOST_DETAILS = 1024  # characters; clients refuse trailers of more than 8 KiB

log = logging.getLogger("grpc.medfocus")  # with that of the library, see `error_log`


async def answered(
    reader: Reader, path: str, method: Method, messages: AsyncIterator[bytes], context: Any
) -> bytes:
    """Answer one call. Its status in the log and the metrics is what HTTP's would be."""
    metadata = dict(context.invocation_metadata())
    with traces.server_span(metadata):
        return await _answered(reader, path, method, messages, context, metadata)


async def _answered(
    reader: Reader,
    path: str,
    method: Method,
    messages: AsyncIterator[bytes],
    context: Any,
    metadata: Mapping[str, Any],
) -> bytes:
    service = reader.service
    began, status, engine, code = time.perf_counter(), 500, None, "serve.failed"
    sizes = {"received": 0, "sent": 0}
    try:
        check_role(service, metadata.get("authorization"), method.role)
        with service.bodies.share() as take:
            request, sizes["received"] = await reader.message(method, messages, take)
            engine = method.engine(request)
            answer = await method.answer(service, request, _seconds(service, context))
        content: bytes = answer.SerializeToString()
        status, code, sizes["sent"] = 200, "", len(content)
        return content
    except MedfocusError as error:
        status, code = status_of(error), error.code
        trailers = [("code", code)]
        if status in (429, 503):
            trailers.append(("retry-after", str(RETRY_SECONDS)))
        kind = _CODES.get(status, _INTERNAL)
        await context.abort(kind, str(error)[:_MOST_DETAILS], tuple(trailers))
        raise  # not reached: that has raised
    except asyncio.CancelledError:
        status = 503 if service.stopping else 504 if context.time_remaining() == 0 else 499
        code = {503: "serve.stopping", 504: "serve.deadline", 499: "serve.gone"}[status]
        raise
    except Exception:  # the library would send its text, which may quote a patient's data
        log.exception("%s failed", path)
        text = "failed; the service's log says where"
        await context.abort(_INTERNAL, text, (("code", "serve.failed"),))
        raise
    finally:
        log_request(
            service.metrics,
            method="gRPC",
            route=path,
            engine=engine,
            status=status,
            code=code,
            seconds=time.perf_counter() - began,
            sizes=sizes,
            traceparent=metadata.get("traceparent", ""),
        )


def _seconds(service: Service, context: Any) -> float:
    """What is left of the client's deadline, or of the service's own."""
    remaining, most = context.time_remaining(), service.config.limits.seconds
    return most if remaining is None else max(0.0, min(remaining, most))

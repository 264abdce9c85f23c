"""Traces of calls over gRPC."""

import grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.serving.monitoring.test_traces import CLIENT, HEADERS, TRACE, finished
from tests.serving.open_inference.conftest import ServeBoth


def test_a_call_over_grpc_is_in_its_clients_trace(
    serve_both: ServeBoth, exporter: InMemorySpanExporter
) -> None:
    running = serve_both()
    path = "inference.GRPCInferenceService/ServerLive"
    with grpc.insecure_channel(running.grpc) as channel:
        channel.unary_unary(f"/{path}")(b"", metadata=tuple(HEADERS.items()), timeout=120)
    server, _ = finished(exporter)
    assert (server.name, server.context.trace_id) == (path, TRACE)
    assert server.parent is not None
    assert server.parent.span_id == CLIENT
    assert server.attributes == {"rpc.system": "grpc", "rpc.method": path}

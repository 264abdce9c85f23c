"""The Open Inference Protocol over gRPC."""

from functools import partial
from typing import Any

import grpc

from medfocus.errors import InputError
from medfocus.serving.open_inference.grpc_calls import answered
from medfocus.serving.open_inference.grpc_methods import METHODS
from medfocus.serving.open_inference.grpc_reading import Reader
from medfocus.serving.state import Service

# Calls of all clients at once, of which each may hold 64 KiB before its message is read; an
# engine's queue has as many images. The library answers more with RESOURCE_EXHAUSTED.
MOST_CALLS = 1024


async def grpc_server(service: Service, port: int) -> tuple[Any, int]:
    """A server that listens at the service's host, and answers once it is started.

    Args:
        service: whose engines answer.
        port: to listen on; 0 for a free one.

    Returns:
        The `grpc.aio.Server`, and its port.

    Raises:
        InputError: the address cannot be listened on (`serve.address`).
    """
    config, limits = service.config, service.config.limits
    milliseconds = int(limits.idle_seconds * 1000)
    server = grpc.aio.server(
        maximum_concurrent_rpcs=MOST_CALLS,
        options=[
            ("grpc.max_receive_message_length", limits.body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # else a second service could take half of the requests
            ("grpc.server_handshake_timeout_ms", milliseconds),
            # A client that is gone without a word is noticed, and its work cancelled.
            ("grpc.keepalive_time_ms", milliseconds),
            ("grpc.keepalive_timeout_ms", milliseconds),
        ],
    )
    # Each method takes a stream, of which it reads one message: a call is the same to the client,
    # and who may not make it is refused before its message has been received.
    reader, services = Reader(service), dict[str, dict[str, Any]]()
    for path, method in METHODS.items():
        name, _, call = path.rpartition("/")
        handler = grpc.stream_unary_rpc_method_handler(partial(answered, reader, path, method))
        services.setdefault(name, {})[call] = handler
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(*each) for each in services.items()]
    )
    host = f"[{config.host}]" if ":" in config.host else config.host
    try:
        return server, _listen(server, f"{host}:{port}", service)
    except RuntimeError:
        hint = "use an address of this machine and a free port"
        item = f"{config.host}, gRPC port {port}"
        raise InputError(item, "cannot be listened on", hint, code="serve.address") from None


def _listen(server: Any, address: str, service: Service) -> int:
    """The port; the certificate and its key were checked when the HTTP server took them."""
    security = service.config.security
    if security.certificate is None or security.key is None:
        port: int = server.add_insecure_port(address)
        return port
    pair = (security.key.read_bytes(), security.certificate.read_bytes())
    port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    return port

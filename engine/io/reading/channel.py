"""Messages between an engine and its reading processes: JSON and file descriptors, no pickle."""

import json
import socket
from typing import Any

_MOST_BYTES = 2**16

Message = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep the bounds of messages."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, message: Message, *descriptors: int) -> None:
    """Send a message of less than 64 KiB, and duplicates of open file descriptors."""
    socket.send_fds(channel, [json.dumps(message).encode()], descriptors)


def receive(channel: socket.socket) -> tuple[Message, list[int]] | None:
    """Wait for a message and its file descriptors, which are the caller's to close.

    Returns:
        None if the other side has closed the channel, or its process has ended.

    Raises:
        TimeoutError: the channel's timeout has passed.
    """
    try:
        data, descriptors, _, _ = socket.recv_fds(channel, _MOST_BYTES, 1)
    except ConnectionError:
        return None
    return (json.loads(data), descriptors) if data else None

"""Connections of clients that are slow or send endless headers, for which uvicorn would wait."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

END_SECONDS = 2.0  # for the last bytes of an answer, and for TLS to end
MOST_HEAD_BYTES = 64 * 1024  # of a request line and its headers, or of trailers


class GuardedConnection(HttpToolsProtocol):
    """A connection that is aborted when its client keeps it waiting.

    For `seconds` each: until a request's headers are complete, while nothing of an answer is
    read, and after an early answer until the rest of the body has come. Within a body, slow
    clients are answered: see `security.limits`.
    """

    seconds = 20.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_head = True
        self._without_body = 0  # bytes since the last ones of a body: of headers and trailers
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0  # bytes of an answer when the timer was started

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if not self._in_head and not self.cycle.more_body:  # of the next request
            self._in_head = True
            self._start_timer()
        self._without_body += len(data)
        super().data_received(data)
        if self._without_body <= MOST_HEAD_BYTES or self.transport.is_closing():
            return
        if self._in_head and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
                b"content-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()
        else:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """See httptools."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools; trailers, which come after a body, are not kept."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._without_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._without_body = 0
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """See uvicorn: an answer was sent, perhaps before all of its request had come."""
        super().on_response_complete()
        if self.cycle.more_body:
            self._start_timer()

    def pause_writing(self) -> None:
        """See asyncio.Protocol: much of an answer waits to be read."""
        super().pause_writing()
        self._start_timer()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        self._stop_timer()

    def shutdown(self) -> None:
        """See uvicorn: the service ends.

        TLS would wait 30 s for the other side of an idle connection to agree to its end.
        """
        super().shutdown()
        if self.transport.is_closing() and not self.flow.write_paused:
            self.loop.call_later(END_SECONDS, self.transport.abort)

    def _start_timer(self) -> None:
        self._stop_timer()
        self._unread = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(self.seconds, self._expired)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        if self.transport.get_write_buffer_size() < self._unread:  # slow, but it reads
            self._start_timer()
        else:
            self.transport.abort()

"""The reading process: decodes one image at a time, within limits that the system enforces.

    → {"name": "a.dcm", "frame": 0}           with a file descriptor if the file is a new one
    ← {"frames": 1, "bytes": 4194304}         how many images, and what decoding this one takes
    → {}                                      there is room for it
    ← {"frames": 1, "shape": [512, 512], "pixel_aspect": 1.0,
       "warnings": [["pixels.constant", "all pixels …"]]}     with a descriptor of its pixels

    → {"name": "a.dcm", "parts": 0}           from which part on
    ← {"parts": [{"first": 0, …}], "total": 1}     up to 64 of them; see `Part`

Each answer may be {"frames": 1, "error": [class, item, problem, hint, code]} instead.
"""

import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medfocus.engine.io.image_file import ImageFile, image_file_parts, open_image_file
from medfocus.engine.io.notices import Notice
from medfocus.engine.io.reading import channel
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.volumes.parts import Part, to_json
from medfocus.errors import ImageError, MedfocusError

# gdcm tries 8 bits before 12.
_EXPECTED = b"Unsupported JPEG data precision"
_PARTS = 64  # in a message
COMPLAINT = Notice("pixels.decoder_complained", "its decoder reported damage: pixels may be wrong")


def main(descriptor: int, limits: ReadingLimits) -> None:
    """Serve one thread of an engine, by a socket of this descriptor, until that is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine's process to handle
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's image
    _limit_memory(limits.most_bytes)
    with socket.socket(fileno=descriptor) as engine:
        Worker(engine, limits).serve()


class Worker:
    """Answers one request after the other; the last file stays open for its further images."""

    def __init__(self, engine: socket.socket, limits: ReadingLimits) -> None:
        self._engine, self._limits = engine, limits
        self._file: BinaryIO | None = None
        self._opened: ImageFile | None = None
        self._parts: list[Part] = []
        self._complaints = os.memfd_create("complaints")
        os.dup2(self._complaints, sys.stderr.fileno())

    def serve(self) -> None:
        """Until the engine closes the channel."""
        while received := channel.receive(self._engine):
            request, descriptors = received
            name: str = request["name"]
            for descriptor in descriptors:
                self._take(descriptor)
            try:
                if "parts" in request:
                    self._list(name, request["parts"])
                else:
                    self._decode(name, request["frame"])
            except MedfocusError as error:
                self._refuse(error)
            except MemoryError:
                self._refuse(_too_large(name, self._limits.most_bytes))
            except Exception:  # its text may quote the file
                self._refuse(ImageError(name, "cannot be read", "check the file, or report this"))

    def _take(self, descriptor: int) -> None:
        if self._file:
            self._file.close()
        # Opened again, since processes that share a descriptor share its position.
        self._file, self._opened = Path(f"/proc/self/fd/{descriptor}").open("rb"), None  # noqa: SIM115
        os.close(descriptor)

    def _list(self, name: str, start: int) -> None:
        if not start:
            assert self._file is not None
            self._file.seek(0)
            with _alarm(self._limits.seconds):
                self._parts = image_file_parts(self._file, name, self._limits.max_pixels)
        page = [to_json(part) for part in self._parts[start : start + _PARTS]]
        channel.send(self._engine, {"parts": page, "total": len(self._parts)})

    def _decode(self, name: str, index: int) -> None:
        with _alarm(self._limits.seconds):
            if self._opened is None:
                assert self._file is not None
                self._file.seek(0)
                self._opened = open_image_file(self._file, name, self._limits.max_pixels)
            wanted = self._opened.decoding_bytes
            if wanted > self._limits.most_bytes:
                raise _too_large(name, self._limits.most_bytes)
        channel.send(self._engine, {"frames": self._opened.frames, "bytes": wanted})
        if channel.receive(self._engine) is None:
            return
        with _alarm(self._limits.seconds):
            pixels, notices, aspect = self._opened.frame(index)
        frames = self._opened.frames
        if frames == 1:
            self._opened = None  # a decoder keeps what it has decoded
        if self._complained():
            notices = (*notices, COMPLAINT)
        shared = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(shared, "wb", closefd=False) as stream:
                stream.write(np.ascontiguousarray(pixels).data)
            shape = pixels.shape[:2]
            answer = {
                "frames": frames,
                "shape": shape,
                "pixel_aspect": float(aspect),
                "warnings": [[notice.code, notice] for notice in notices],
            }
            channel.send(self._engine, answer, shared)
        finally:
            os.close(shared)

    def _refuse(self, error: MedfocusError) -> None:
        described = [type(error).__name__, error.item, error.problem, error.hint, error.code]
        frames = self._opened.frames if self._opened else 1
        channel.send(self._engine, {"frames": frames, "error": described})

    def _complained(self) -> bool:
        """Whether a decoder has reported damage on stderr since the last call."""
        length = os.lseek(self._complaints, 0, os.SEEK_CUR)
        lines = os.pread(self._complaints, length, 0).splitlines()
        os.lseek(self._complaints, 0, os.SEEK_SET)
        return any(line and not line.startswith(_EXPECTED) for line in lines)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """End this process if the block takes more processor time, whatever code is running.

    Not the clock's time, which passes on a busy machine too.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory(most_bytes: int) -> None:
    """Limit the address space to what the process has now and `most_bytes`; see setrlimit(2)."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + most_bytes
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    others = [value for value in (soft, hard) if value != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([limit, *others]), hard))


def _too_large(name: str, most_bytes: int) -> ImageError:
    problem = f"takes more than {most_bytes / 2**20:.0f} MiB to decode"
    return ImageError(name, problem, "crop, tile or downsize it", code="image.too_large")

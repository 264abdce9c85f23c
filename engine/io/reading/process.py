"""An engine's side of one reading process."""

import fcntl
import json
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray

from medfocus.engine.io.frames import Frame
from medfocus.engine.io.notices import Notice
from medfocus.engine.io.reading import channel
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.open_file import OpenFile, Reading
from medfocus.engine.io.volumes.parts import MOST_PARTS, Part, from_json
from medfocus.errors import DeviceError, ImageError, InputError, MedfocusError

# The process ends itself once it has used its time. One that uses none, since a disk keeps it
# waiting, is not waited for longer than this many times that, and the time in which it may start.
_PATIENCE = 6
_START = 30.0  # seconds
_GRACE = 5.0  # seconds for a process to end that has said what it must not
_PROGRAM = (
    "import json, sys\n"
    "descriptor, limits, sys.path[:] = json.loads(sys.argv[1])\n"
    "from medfocus.engine.io.reading.limits import ReadingLimits\n"
    "from medfocus.engine.io.reading.worker import main\n"
    "main(descriptor, ReadingLimits(*limits))"
)
_ERRORS: dict[str, type[MedfocusError]] = {"ImageError": ImageError, "DeviceError": DeviceError}


_STOPPED = InputError("engine", "is closed", "load it again", code="engine.closed")


class ReadingProcess:
    """Reads for one thread; started by the first request, and again after a file has ended it.

    What the process says is checked like a file: a decoder may have been made to say it.
    """

    def __init__(self, limits: ReadingLimits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._file: OpenFile | None = None  # that the process has open
        self._stopped = False
        self._owner = os.getpid()  # a fork leaves its parent's process alone, and starts another

    def read(self, file: OpenFile, index: int, admit: Callable[[int], None]) -> Reading:
        """Read one image of a file.

        Args:
            file: open.
            index: of the image, from 0.
            admit: waits until so many bytes may be taken.

        Raises:
            DeviceError: the process cannot be started.
        """
        if not self._started():
            return Reading(index + 1, _STOPPED)
        assert self._channel is not None
        frames = index + 1
        try:
            header = self._asked(file, {"name": file.name, "frame": index})
            frames = _count(header["frames"])
            if "error" in header:
                return Reading(frames, _error(header["error"]))
            admit(min(_count(header["bytes"]), self._limits.most_bytes))
            channel.send(self._channel, {})
            answer, descriptors = self._received()
            frames = _count(answer["frames"])
            if "error" in answer:
                return Reading(frames, _error(answer["error"]))
            pixels = _mapped(answer["shape"], *descriptors)
            notices = tuple(Notice(str(code), str(text)) for code, text in answer["warnings"])
            return Reading(frames, Frame(pixels, notices, _aspect(answer["pixel_aspect"])))
        except (EOFError, ConnectionError, TimeoutError) as ended:
            return Reading(frames, self._ended_by(file.name, isinstance(ended, TimeoutError)))
        except BaseException:
            self.close()  # it may be in the middle of a request
            raise

    def parts(self, file: OpenFile) -> list[Part] | MedfocusError:
        """What a file says of its images' place in a series, or why it cannot be read.

        Raises:
            DeviceError: the process cannot be started.
        """
        if not self._started():
            return _STOPPED
        parts: list[Part] = []
        try:
            while True:
                answer = self._asked(file, {"name": file.name, "parts": len(parts)})
                if "error" in answer:
                    return _error(answer["error"])
                page = _parts(answer)
                parts += page
                if not page or len(parts) > MOST_PARTS:
                    raise EOFError
                if len(parts) == answer["total"]:
                    return parts
        except (EOFError, ConnectionError, TimeoutError) as ended:
            return self._ended_by(file.name, isinstance(ended, TimeoutError))
        except BaseException:
            self.close()  # it may be in the middle of a request
            raise

    def stop(self) -> None:
        """Let reading fail, from now on and in the thread that may be reading now."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process; its thread must not be reading any more."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
        self._channel = self._process = self._file = None

    def _started(self) -> bool:
        """Start the process if there is none of this one's own; False if reading was stopped."""
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self.close()
            self._start()
        return not self._stopped  # looked at after the start, before which `stop` ends nothing

    def _start(self) -> None:
        self._owner = os.getpid()
        self._channel, others = channel.pair()
        self._channel.settimeout(_START + self._limits.seconds * _PATIENCE)
        given = json.dumps([others.fileno(), astuple(self._limits), sys.path])
        with others:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _PROGRAM, given],
                    pass_fds=[others.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                )
            except OSError as error:
                self.close()
                problem = f"cannot be started ({error.strerror})"
                hint = "free memory, or trust the files (trust_files)"
                raise DeviceError("reading process", problem, hint) from None

    def _asked(self, file: OpenFile, request: channel.Message) -> channel.Message:
        """The first answer to a request about a file, which is sent along if it is a new one."""
        assert self._channel is not None
        new = () if file is self._file else (file.descriptor,)
        self._file = file
        channel.send(self._channel, request, *new)
        return self._received()[0]

    def _received(self) -> tuple[channel.Message, list[int]]:
        assert self._channel is not None
        received = channel.receive(self._channel)
        if received is None:
            raise EOFError
        return received

    def _ended_by(self, name: str, unresponsive: bool) -> MedfocusError:
        """The error of the file that ended the process, which is then gone."""
        assert self._process is not None
        if self._stopped:
            return _STOPPED
        if unresponsive:
            self._process.kill()
            code = -signal.SIGPROF
        else:
            try:
                code = self._process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                code = self._process.wait()
            self.close()
        self._channel = self._process = self._file = None
        if code == -signal.SIGPROF:
            return ImageError(
                name,
                f"took more than {self._limits.seconds:g} s to read",
                "raise the limit (read_seconds) if the file is worth it",
                code="image.too_slow",
            )
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return ImageError(
            name,
            f"is damaged: its decoder crashed ({how})",
            "export it again, uncompressed if possible",
            code="image.decoder_crashed",
        )


def _count(value: object) -> int:
    if type(value) is not int or value < 1:
        raise EOFError
    return value


def _parts(answer: channel.Message) -> list[Part]:
    try:
        return [from_json(part) for part in answer["parts"]]
    except (KeyError, TypeError, ValueError):
        raise EOFError from None


def _aspect(value: object) -> float:
    if type(value) is not float or not 0 < value < math.inf:
        raise EOFError
    return value


def _error(described: list[str]) -> MedfocusError:
    kind, item, problem, hint, code = map(str, described)
    return _ERRORS.get(kind, ImageError)(item, problem, hint, code=code)


def _mapped(shape: list[int], descriptor: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) that a descriptor holds; not copied, and freed with the array."""
    height, width = map(_count, shape)
    try:
        # Otherwise the process could still cut it, and reading it would end this one.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        size = height * width * 3
        if os.fstat(descriptor).st_size != size:
            raise EOFError
        memory = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)
    return np.frombuffer(memory, np.uint8).reshape(height, width, 3)

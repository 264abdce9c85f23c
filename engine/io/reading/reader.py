"""Reading files: in processes of their own, or in this one if they are trusted."""

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from medfocus.engine.io.image_file import (
    ImageFile,
    frame_name,
    image_file_parts,
    open_image_file,
    open_path,
)
from medfocus.engine.io.images import SourceImage, named
from medfocus.engine.io.in_memory import InMemoryFile, copied
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.open_file import OpenFile, Reading
from medfocus.engine.io.reading.process import ReadingProcess
from medfocus.engine.io.volumes.parts import Part
from medfocus.errors import ImageError, MedfocusError, without_traceback


class FileReader:
    """Reads images of files; safe to share between threads, each of which has its own process.

    Args:
        limits: on reading one image.
        trust_files: read in this process, without these limits but that on pixels: faster, and a
            file on which a decoder crashes ends the process.
    """

    def __init__(self, limits: ReadingLimits | None = None, *, trust_files: bool = False) -> None:
        self._limits = limits or ReadingLimits()
        self._trusting = trust_files
        self._own = threading.local()
        self._processes: list[ReadingProcess] = []
        self._lock = threading.Lock()
        self._stopped = False

    def read(
        self, file: OpenFile, index: int, admit: Callable[[int], None] = lambda _: None
    ) -> Reading:
        """Read one image of an open file.

        Args:
            file: open.
            index: of the image, from 0.
            admit: waits until so many bytes may be taken.

        Raises:
            DeviceError: a process cannot be started.
        """
        if self._trusting:
            reading = self._read_here(file, index, admit)
        else:
            reading = self._process().read(file, index, admit)
        most = self._limits.max_frames
        if most is not None and reading.frames > most:
            problem = f"holds {reading.frames} images, more than the limit of {most}"
            hint = "split the file"
            return Reading(1, ImageError(file.name, problem, hint, code="image.too_many_frames"))
        return reading

    def parts(self, file: OpenFile) -> list[Part] | MedfocusError:
        """What an open file says of its images' place in a series, or why it cannot be read.

        Raises:
            DeviceError: a process cannot be started.
        """
        if not self._trusting:
            return self._process().parts(file)
        with file.lock:
            try:
                file.file.seek(0)
                return image_file_parts(file.file, file.name, self._limits.max_pixels)
            except MedfocusError as error:
                return without_traceback(error)

    def each(self, path: str | os.PathLike[str], name: str | None = None) -> Iterator[SourceImage]:
        """Every image of a file, one at a time.

        Args:
            path: of the file.
            name: of the file in errors and results; by default the path.

        Raises:
            ImageError: it cannot be read.
        """
        name, index, frames = name or os.fspath(path), 0, 1
        file = OpenFile(name, open_path(Path(path), name))
        try:
            while index < frames:
                frames, outcome = self.read(file, index)
                if isinstance(outcome, MedfocusError):
                    raise outcome
                yield named(outcome, frame_name(name, index, frames))
                index += 1
        finally:
            file.close()

    def read_all(self, path: str | os.PathLike[str], name: str | None = None) -> list[SourceImage]:
        """Every image of a file: see `each`."""
        return list(self.each(path, name))

    def stop(self) -> None:
        """Let all reading fail, soon; from any thread."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.stop()

    def close(self) -> None:
        """End the processes; no thread may be reading any more."""
        for process in self._processes:
            process.close()

    def _process(self) -> ReadingProcess:
        """The calling thread's own."""
        process: ReadingProcess | None = getattr(self._own, "process", None)
        if process is None:
            with self._lock:
                self._own.process = process = ReadingProcess(self._limits)
                self._processes.append(process)
                if self._stopped:
                    process.stop()
        return process

    def _read_here(self, file: OpenFile, index: int, admit: Callable[[int], None]) -> Reading:
        opened: ImageFile | None = None
        with file.lock:
            try:
                if file.opened is None:
                    file.file.seek(0)
                    file.opened = open_image_file(file.file, file.name, self._limits.max_pixels)
                opened = file.opened
                admit(opened.decoding_bytes)
                frame = opened.frame(index)
            except MedfocusError as error:
                return Reading(opened.frames if opened else 1, without_traceback(error))
            return Reading(opened.frames, frame)


_shared = FileReader()
atexit.register(_shared.close)


def read_images(path: str | os.PathLike[str], name: str | None = None) -> list[SourceImage]:
    """Every image of a file, read in a process of the calling thread's own: see `each_image`."""
    return list(each_image(path, name))


def read_image(given: str | os.PathLike[str] | InMemoryFile, name: str, frame: int) -> SourceImage:
    """One image of a file, read in a process of the calling thread's own.

    Args:
        given: a path, or a file in memory.
        name: of the image, in errors.
        frame: which image, from 0, if the file holds several.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(given, InMemoryFile):
        file = OpenFile(name, copied(given, name))
    else:
        file = OpenFile(name, open_path(Path(given), name))
    try:
        frames, outcome = _shared.read(file, 0)
        if frames > 1 and frame:
            _, outcome = _shared.read(file, frame)
    finally:
        file.close()
    if isinstance(outcome, MedfocusError):
        raise outcome
    return named(outcome, name)


def read_parts(path: str | os.PathLike[str]) -> list[Part]:
    """What a file says of its images, read in a process of the calling thread's own.

    Raises:
        ImageError: it cannot be read.
    """
    name = os.fspath(path)
    file = OpenFile(name, open_path(Path(path), name))
    try:
        parts = _shared.parts(file)
    finally:
        file.close()
    if isinstance(parts, MedfocusError):
        raise parts
    return parts


def each_image(path: str | os.PathLike[str], name: str | None = None) -> Iterator[SourceImage]:
    """The images of a file one at a time, read in a process of the calling thread's own.

    Args:
        path: of the file.
        name: of the file in errors and results; by default the path.

    Raises:
        ImageError: it cannot be read.
    """
    return _shared.each(path, name)

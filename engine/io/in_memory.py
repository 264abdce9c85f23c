"""Files that a caller holds in memory: bytes, binary file objects and pydicom Datasets."""

import io
import os
import shutil
from typing import Any, BinaryIO, Protocol, runtime_checkable

from medfocus.errors import ImageError, MedfocusError


@runtime_checkable
class Readable(Protocol):
    """A file object."""

    def read(self, size: int = ..., /) -> Any:
        """Up to `size` bytes."""


@runtime_checkable
class DicomDataset(Protocol):
    """A pydicom Dataset, recognised by its methods."""

    def save_as(self, filename: Any, /, **options: Any) -> None:
        """Write it."""

    def to_json_dict(self) -> Any:
        """Its attributes."""


InMemoryFile = bytes | bytearray | memoryview | Readable | DicomDataset


def copied(given: InMemoryFile, name: str) -> BinaryIO:
    """A copy in memory, open at its start: the caller may change or close the original.

    A file object is read from where it stands. A Dataset is written as a DICOM file.

    Raises:
        ImageError: it cannot be read, or is a text file.
    """
    memory = open(os.memfd_create("image"), "w+b")  # noqa: SIM115, PTH123
    try:
        if isinstance(given, DicomDataset):
            _write_dataset(given, memory)
        elif isinstance(given, Readable):
            if isinstance(given, io.TextIOBase):
                problem, hint = "is a file opened as text", "open it with mode 'rb'"
                raise ImageError(name, problem, hint, code="image.not_an_image")
            shutil.copyfileobj(given, memory)
        else:
            memory.write(given)
        memory.seek(0)
    except MedfocusError:
        memory.close()
        raise
    except Exception:  # its text may quote the file
        memory.close()
        hint = "give the path of the file, or its bytes"
        raise ImageError(name, "cannot be copied to memory", hint) from None
    return memory


def _write_dataset(dataset: Any, memory: BinaryIO) -> None:
    from medfocus.engine.io.dicom import silence_pydicom  # the caller has imported pydicom

    silence_pydicom()
    if getattr(dataset, "file_meta", None) and "TransferSyntaxUID" in dataset.file_meta:
        dataset.save_as(memory, enforce_file_format=False)
    else:
        implicit, little = dataset.original_encoding
        dataset.save_as(
            memory, implicit_vr=implicit is not False, little_endian=little is not False
        )

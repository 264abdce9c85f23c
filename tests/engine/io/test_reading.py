"""Reading processes: what a file can do to them, and how little that is to the engine's process."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless

from medfocus.engine.io.frames import Frame
from medfocus.engine.io.image_file import open_path
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.open_file import OpenFile, Reading
from medfocus.engine.io.reading.process import ReadingProcess
from medfocus.engine.io.reading.reader import FileReader
from medfocus.errors import ImageError, InputError
from tests.engine.io import mutation
from tests.engine.io.read import read_images, shipped
from tests.errors import refuses
from tests.waiting import wait_until


def opened(path: Path) -> OpenFile:
    return OpenFile(str(path), open_path(path, str(path)))


@pytest.fixture(scope="module")
def reader():
    with_limits = FileReader(ReadingLimits(seconds=60))
    yield with_limits
    with_limits.close()


def read_frames(reader: FileReader, path: Path) -> list[Frame | str]:
    """A file's images, or the codes of their errors."""
    found: list[Frame | str] = []
    frames, file = 1, opened(path)
    while len(found) < frames:
        frames, outcome = reader.read(file, len(found))
        found.append(outcome if isinstance(outcome, Frame) else outcome.code)
    file.close()
    return found


@pytest.mark.parametrize(
    "name",
    [
        "693_J2KI.dcm",
        "CT_small.dcm",
        "JPGExtended.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_rle_2frame.dcm",
        "image_dfl.dcm",
    ],
)
def test_another_process_reads_the_same_bits(reader: FileReader, name: str) -> None:
    for found, expected in zip(
        reader.read_all(shipped(name)), read_images(shipped(name)), strict=True
    ):
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert (found.source, found.warnings) == (expected.source, expected.warnings)
        found.pixels[:] = 0  # the caller's own


@pytest.mark.slow
def test_damaged_files_cost_themselves_only(reader: FileReader, tmp_path: Path) -> None:
    path = tmp_path / "mutated.bin"
    for data, _ in zip(mutation.mutated(seed=2), range(2000), strict=False):
        path.write_bytes(data)
        mutation.read(reader, path)
    assert len(reader.read_all(shipped("CT_small.dcm"))) == 1


def test_an_attribute_of_several_values_is_a_typed_error(
    reader: FileReader, tmp_path: Path
) -> None:
    """Found by mutation: BitsAllocated is asked for before anything is decoded."""
    dataset = pydicom.dcmread(shipped("JPEGLSNearLossless_16.dcm"))
    dataset.BitsAllocated = [16, 16]
    path = tmp_path / "two.dcm"
    dataset.save_as(path)
    assert read_frames(reader, path) == ["dicom.malformed"]


def killing(process: ReadingProcess, number: int) -> Callable[[int], None]:
    """Kill the process when it asks for memory: in the middle of a file, as a decoder would."""

    def kill(_: int) -> None:
        assert process._process is not None
        os.kill(process._process.pid, number)

    return kill


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_file_on_which_the_process_dies(number: int) -> None:
    process = ReadingProcess(ReadingLimits(seconds=60))
    file, good = opened(shipped("CT_small.dcm")), opened(shipped("MR_small.dcm"))
    frames, outcome = process.read(file, 0, killing(process, number))
    assert isinstance(outcome, ImageError)
    assert (frames, outcome.code) == (1, "image.decoder_crashed")
    assert outcome.item == file.name
    assert isinstance(process.read(good, 0, lambda _: None).outcome, Frame)
    process.close()


def jpeg_2000(codestream: Callable[[bytes], bytes], folder: Path, **attributes: object) -> Path:
    """A shipped file with another codestream and other attributes."""
    dataset = pydicom.dcmread(shipped("MR_small_jp2klossless.dcm"))
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([codestream(frame)])
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    assert dataset.file_meta.TransferSyntaxUID == JPEG2000Lossless
    dataset.save_as(folder / "jpeg2000.dcm")
    return folder / "jpeg2000.dcm"


def test_a_file_that_never_ends(tmp_path: Path) -> None:
    """A box of length 0 after the signature (ISO/IEC 15444-1 I.4), at which pydicom stays."""
    endless = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\0free"
    path = jpeg_2000(lambda frame: endless + frame, tmp_path)
    reader = FileReader(ReadingLimits(seconds=0.5))
    assert read_frames(reader, path) == ["image.too_slow"]
    reader.close()


def test_a_codestream_that_contradicts_the_header(tmp_path: Path) -> None:
    """Colour in a file that says one sample per pixel: decoders write beyond their buffers."""
    colour = pydicom.dcmread(shipped("SC_rgb_gdcm_KY.dcm"))
    (frame,) = generate_frames(colour.PixelData, number_of_frames=1)
    path = jpeg_2000(lambda _: frame, tmp_path, Rows=colour.Rows, Columns=colour.Columns)
    with refuses(ImageError, "dicom.malformed", str(path)) as caught:
        read_images(path)
    assert "SamplesPerPixel" in caught.value.problem


def test_memory_is_limited(tmp_path: Path) -> None:
    """A small file of many pixels."""
    path = tmp_path / "bomb.png"
    Image.fromarray(np.zeros((6000, 6000), np.uint16)).save(path)
    reader = FileReader(ReadingLimits(seconds=60, most_bytes=2**28))
    assert read_frames(reader, path) == ["image.too_large"]
    reader.close()


@pytest.mark.parametrize("name", ["rtdose.dcm", "rtdose_rle.dcm"])
def test_whole_frames_of_a_truncated_file_are_read(
    reader: FileReader, tmp_path: Path, name: str
) -> None:
    whole = read_frames(reader, shipped(name))
    path = tmp_path / name
    data = shipped(name).read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    *frames, last = read_frames(reader, path)
    assert last == "image.truncated"
    assert 0 < len(frames) < len(whole)
    for found, expected in zip(frames, whole, strict=False):
        assert isinstance(found, Frame)
        assert isinstance(expected, Frame)
        np.testing.assert_array_equal(found.pixels, expected.pixels)


def test_frames_that_a_file_only_announces_are_one_error(
    reader: FileReader, tmp_path: Path
) -> None:
    for name in ("CT_small.dcm", "MR_small_RLE.dcm"):
        dataset = pydicom.dcmread(shipped(name))
        dataset.NumberOfFrames = 200_000
        dataset.save_as(tmp_path / name)
        found = read_frames(reader, tmp_path / name)
        assert isinstance(found[0], Frame)
        assert found[1:] == ["image.truncated"]


def test_what_a_decoder_prints_becomes_a_warning(reader: FileReader) -> None:
    """dcmtk warns of this file, too."""
    (image,) = reader.read_all(shipped("JPEG-lossy.dcm"))
    assert any("decoder" in warning for warning in image.warnings)
    (image,) = reader.read_all(shipped("JPGExtended.dcm"))
    assert not any("decoder" in warning for warning in image.warnings)


def test_a_process_whose_engine_is_gone_ends() -> None:
    process = ReadingProcess(ReadingLimits())
    process.read(opened(shipped("CT_small.dcm")), 0, lambda _: None)
    child, engine = process._process, process._channel
    assert child is not None
    assert engine is not None
    engine.close()
    wait_until(lambda: child.poll() is not None)
    process.close()


def test_stopping_ends_what_is_being_read() -> None:
    reader = FileReader(ReadingLimits(seconds=60))
    found: Reading = reader.read(opened(shipped("CT_small.dcm")), 0, admit=lambda _: reader.stop())
    assert isinstance(found.outcome, InputError)
    assert found.outcome.code == "engine.closed"
    assert isinstance(reader.read(opened(shipped("CT_small.dcm")), 0).outcome, InputError)
    reader.close()


def test_a_fork_reads_in_a_process_of_its_own(reader: FileReader) -> None:
    expected = reader.read_all(shipped("CT_small.dcm"))
    child = os.fork()
    if not child:
        found = reader.read_all(shipped("CT_small.dcm"))
        os._exit(int((found[0].pixels != expected[0].pixels).any()))
    assert os.waitpid(child, 0)[1] == 0
    assert len(reader.read_all(shipped("MR_small.dcm"))) == 1

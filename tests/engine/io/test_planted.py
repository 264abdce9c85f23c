"""Names planted in every element of damaged DICOM files come out nowhere."""

import io
import itertools
import logging
import random
import traceback
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.dataelem import DataElement

from medfocus.engine.io.image_file import open_path
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.reading.open_file import OpenFile
from medfocus.engine.io.reading.reader import FileReader
from medfocus.errors import MedfocusError
from tests.engine.io import mutation
from tests.engine.io.read import shipped

PLANTED = "PLANTEDNAME"
TEXTS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT")
READ_HERE = (  # by decoders that are written in Python
    "CT_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "image_dfl.dcm",
)


def planted(name: str) -> bytes:
    """A shipped file in which every text is `PLANTED`, also those that need to be read."""

    def plant(_: pydicom.Dataset, element: DataElement) -> None:
        if element.VR in TEXTS and element.keyword != "PhotometricInterpretation":
            element.value = PLANTED

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(shipped(name))
        dataset.PatientName = dataset.PatientID = dataset.InstitutionName = PLANTED
        dataset.walk(plant)
        file = io.BytesIO()
        dataset.save_as(file)
    assert PLANTED.encode() in file.getvalue() or name == "image_dfl.dcm"
    return file.getvalue()


def texts(error: BaseException | None) -> str:
    """Everything that an error and those behind it say."""
    said = ""
    while error is not None:
        said += "".join(traceback.format_exception(error)) + repr(error.args)
        error = error.__cause__ or error.__context__
    return said


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.long)])
@pytest.mark.parametrize("here", [True, False])
def test_what_is_planted_stays_in_the_file(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    count: int,
    here: bool,
) -> None:
    draw, path = random.Random(3), tmp_path / "a.dcm"
    names = READ_HERE if here else mutation.DICOM
    wholes = [planted(name) for name in names]
    reader = FileReader(ReadingLimits(seconds=60), trust_files=here)
    caplog.set_level(logging.DEBUG)
    said, failed = "", 0
    caplog.clear()  # pydicom's own, of the planting
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for whole in itertools.islice(itertools.cycle(wholes), count):
            path.write_bytes(mutation.damaged(whole, draw))
            file = OpenFile(path.name, open_path(path, path.name))
            outcome = reader.read(file, 0).outcome
            file.close()
            if isinstance(outcome, MedfocusError):
                failed += 1
                said += texts(outcome)
            else:
                said += " ".join(outcome.warnings)
    reader.close()
    said += caplog.text + " ".join(capfd.readouterr())
    said += " ".join(str(warning.message) for warning in caught)
    assert count // 5 < failed < count
    assert PLANTED not in said

"""Small files for data sets; images are all different by default."""

from itertools import count
from pathlib import Path

from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

_colours = count()


def png(path: Path, colour: int | None = None) -> Path:
    """A PNG of 2 × 2 pixels, of a new or the given colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = next(_colours) if colour is None else colour + 2**23
    Image.new("RGB", (2, 2), (value >> 16, value >> 8 & 255, value & 255)).save(path)
    return path


def dicom(path: Path, patient: str) -> Path:
    """A DICOM file without pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientID = patient
    dataset.save_as(path, enforce_file_format=True)
    return path

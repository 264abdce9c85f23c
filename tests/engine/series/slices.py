"""DICOM slices of known geometry, and what the engine makes of a folder of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from medfocus.engine.io.reading.reader import FileReader
from medfocus.engine.series.grouping import Study, group_parts
from medfocus.engine.series.reading import parts_of

SERIES = "1.2.826.0.1.3680043.8.498.77"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def dicom(pixels: Any = None, **attributes: Any) -> Dataset:
    """A CT image (H, W), or of several frames (F, H, W), of signed 16-bit values."""
    pixels = np.zeros((4, 6), np.int16) if pixels is None else np.asarray(pixels, np.int16)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = CTImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID(f"{SERIES}.1")
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", SERIES
    made.PatientName, made.PatientID, made.Modality = "DOE^JANE", "4711", "CT"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        made.NumberOfFrames = len(pixels)
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.PixelSpacing, made.WindowCenter, made.WindowWidth = [1.0, 1.0], 500, 1000
    made.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def axial(height: float, pixels: Any = None, **attributes: Any) -> Dataset:
    """A slice at a height, in mm."""
    place = {"ImageOrientationPatient": list(AXIAL), "ImagePositionPatient": [-3.0, -2.0, height]}
    return dicom(pixels, **(place | attributes))


def saved(folder: Path, slices: dict[str, Dataset] | Sequence[Dataset]) -> list[str]:
    """Files by their names, or by their numbers; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(slices, dict):
        slices = {f"{number:03}.dcm": each for number, each in enumerate(slices)}
    for name, each in slices.items():
        each.save_as(folder / name, enforce_file_format=True)
    return [str(folder / name) for name in slices]


def studies(files: Sequence[str | Path]) -> list[Study]:
    """The studies of files."""
    names, reader = list(map(str, files)), FileReader(trust_files=True)
    return group_parts(names, [parts_of(name, name, reader) for name in names])


def found(files: Sequence[str | Path]) -> list[list[str]]:
    """The names of the files of each study, in their order; of several frames with #frame."""
    parted = []
    for study in studies(files):
        names = []
        for file, part, _ in study.units:
            whole = part.count != 1 or part.first == 0
            names.append(Path(files[file]).name + ("" if whole else f"#{part.first}"))
        parted.append(names)
    return parted


def codes(files: Sequence[str | Path]) -> list[list[str]]:
    """The codes of each study's warnings."""
    return [[notice.code for notice in study.notices] for study in studies(files)]

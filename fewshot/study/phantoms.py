"""The phantom sets as a study's data, drawn where they are missing."""

import shutil
from pathlib import Path

from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.reader import read_dataset
from medfocus.fewshot.study.phantom_sets import PHANTOM_SETS, write_set


def phantom_datasets(folder: Path) -> dict[str, Dataset]:
    """The four sets in `<folder>/<name>`; one that an interrupt left half drawn is drawn anew."""
    datasets: dict[str, Dataset] = {}
    for name in PHANTOM_SETS:
        place = folder / name
        if not place.exists():
            part = folder / f".{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            try:
                write_set(part, name)
                part.rename(place)
            except OSError as error:
                raise InputError(
                    str(folder), f"cannot be written to ({error.strerror})", "choose another place"
                ) from error
        datasets[name] = read_dataset(place)
    return datasets

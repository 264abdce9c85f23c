"""The phantom sets as data of a study, drawn if missing."""

import shutil
from pathlib import Path

from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.reader import read_dataset
from medfocus.fewshot.study.phantom_sets import PHANTOM_SETS, write_set
from medfocus.files.atomic_write import flush_folder, flush_tree
from medfocus.files.file_errors import unwritable


def phantom_datasets(folder: Path) -> dict[str, Dataset]:
    """The four sets in `<folder>/<name>`; missing or interrupted ones are drawn.

    Raises:
        FileError: the folder cannot be written to.
    """
    datasets: dict[str, Dataset] = {}
    for name in PHANTOM_SETS:
        place = folder / name
        if not place.exists():
            part = folder / f".{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            try:
                write_set(part, name)
                flush_tree(part)
                part.rename(place)
                flush_folder(folder)
            except OSError as error:
                raise unwritable(folder, error) from error
        datasets[name] = read_dataset(place)
    return datasets

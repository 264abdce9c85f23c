"""Reading a split's JSON file, and what of a data set to test a head on."""

from pathlib import Path
from typing import Any

from medfocus.engine.artifact.strict_json import parse_json
from medfocus.errors import InputError
from medfocus.fewshot.data.dataset import Dataset
from medfocus.fewshot.data.splitting.contents import content_hashes
from medfocus.fewshot.data.splitting.leaks import check_no_overlap, file_name
from medfocus.fewshot.data.splitting.split import HEAD, SCHEMA, Split, SplitFile
from medfocus.files.file_errors import unreadable

_HINT = "make a new split"
_TYPES = {
    "schema": int,
    "dataset": str,
    "classes": list,
    "amount": str,
    "seed": int,
    "train": list,
    "test": list,
}
_FILE_KEYS = {"file", "sha256", "class"}


def read_split(path: Path, dataset: Dataset) -> Split:
    """Read a saved split and check that its data set is unchanged.

    Raises:
        FileError: the file is missing or cannot be read.
        InputError: another schema, or unknown or missing keys; the classes differ; a listed file
            is missing from the data set, listed twice, changed or relabelled; a content or group
            is in both parts.
    """
    content = _content(path)
    if content["classes"] != list(dataset.classes):
        classes = ", ".join(content["classes"])
        raise InputError(
            str(path),
            f"has the classes {classes}; the data set has {', '.join(dataset.classes)}",
            _HINT,
            code="split.class_mismatch",
        )
    indices = {file_name(dataset, index): index for index in range(len(dataset.items))}
    train, test = (
        [_entry(path, entry, dataset, indices) for entry in content[part]]
        for part in ("train", "test")
    )
    if not (train and test):
        raise _invalid(path, f"lists no files to {'test' if train else 'train'} on")
    seen: set[int] = set()
    for file in train + test:
        if file.index in seen:
            raise _invalid(path, f"lists {file.file} twice")
        seen.add(file.index)
    _check_contents(dataset, train + test)
    hashes = {file.index: file.sha256 for file in train + test}
    split = Split(
        dataset=content["dataset"],
        classes=dataset.classes,
        amount=content["amount"],
        seed=content["seed"],
        train_files=tuple(sorted(train, key=lambda file: file.index)),
        test_files=tuple(sorted(test, key=lambda file: file.index)),
    )
    check_no_overlap(dataset, hashes, split.train, split.test)
    return split


def tested_split(path: Path, dataset: Dataset, head: str) -> Split:
    """The files to test a head on: its split's test part, or another data set.

    A data set that holds none of the split's files, or any data set if the split file is missing,
    is used as a whole, or only its test part if its authors defined one.

    Args:
        path: of the split.
        dataset: what to test on.
        head: SHA-256 of the head's file.

    Raises:
        FileError, InputError: as `read_split`; the split was written with another head; the data
            set has no test part.
    """
    absent: dict[str, Any] = {"amount": "unknown", "seed": 0, "train": [], "test": []}
    content = _content(path) if path.exists() else absent
    if content.get(HEAD, head) != head:
        problem = "was written with another head: a fit was interrupted, or one file was replaced"
        hint = "fit the head again"
        raise InputError(str(path), problem, hint, code="split.other_head")
    hashes = content_hashes([item.path for item in dataset.items])
    if {entry["sha256"] for entry in content["train"] + content["test"]} & set(hashes):
        return read_split(path, dataset)
    parts = {item.part for item in dataset.items}
    files = tuple(
        SplitFile(index, file_name(dataset, index), hashes[index], item.label)
        for index, item in enumerate(dataset.items)
        if item.part == "test" or parts == {None}
    )
    if not files:
        raise InputError(
            dataset.name, "has no test part", "add files to test on", code="split.too_few_files"
        )
    return Split(dataset.name, dataset.classes, content["amount"], content["seed"], (), files)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except (RecursionError, ValueError) as error:
        raise _invalid(path, "is not JSON in UTF-8, or is nested too deeply") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise _invalid(path, f"is not a split of schema {SCHEMA}")
    types = _TYPES | ({HEAD: str} if HEAD in content else {})
    _check_keys(path, content, set(types))
    for key, kind in types.items():
        if type(content[key]) is not kind:
            raise _invalid(path, f"has a {key!r} that is not of type {kind.__name__}")
    if not all(isinstance(name, str) for name in content["classes"]):
        raise _invalid(path, "has 'classes' that are no text")
    for part in ("train", "test"):
        for number, entry in enumerate(content[part]):
            item = f"{path}: {part}[{number}]"
            if not isinstance(entry, dict):
                raise _invalid(item, "is not an object")
            _check_keys(item, entry, _FILE_KEYS)
            for key in _FILE_KEYS:
                if not isinstance(entry[key], str):
                    raise _invalid(f"{item}.{key}", "is no text")
    return content


def _invalid(item: Path | str, problem: str) -> InputError:
    return InputError(str(item), problem, _HINT, code="split.invalid")


def _check_keys(item: Path | str, found: dict[str, Any], expected: set[str]) -> None:
    differing = sorted(found.keys() ^ expected)
    if differing:
        verb = "has the unknown" if differing[0] in found else "lacks the"
        raise _invalid(item, f"{verb} key {differing[0]!r}")


def _entry(
    path: Path, entry: dict[str, str], dataset: Dataset, indices: dict[str, int]
) -> SplitFile:
    """One file of the split. Only files of the data set are accepted, so no path leads outside."""
    name, label = entry["file"], entry["class"]
    if name not in indices:
        raise InputError(
            name,
            f"is in {path} but not in the data set",
            f"restore the file, or {_HINT}",
            code="split.missing_file",
        )
    item = dataset.items[indices[name]]
    if label != dataset.classes[item.label]:
        raise InputError(
            name,
            f"is {label!r} in {path} but {dataset.classes[item.label]!r} in the data set",
            f"correct its label, or {_HINT}",
            code="split.label_mismatch",
        )
    return SplitFile(indices[name], name, entry["sha256"], item.label)


def _check_contents(dataset: Dataset, files: list[SplitFile]) -> None:
    hashes = content_hashes([dataset.items[file.index].path for file in files])
    for file, content in zip(files, hashes, strict=True):
        if content != file.sha256:
            raise InputError(
                file.file,
                "has changed since the split was made: its SHA-256 differs",
                f"restore the original file, or {_HINT}",
                code="split.changed_file",
            )

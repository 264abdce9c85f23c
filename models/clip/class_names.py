"""Class names: in one form wherever they are read, and no two that a reader would take for one."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from medfocus.errors import FileError, InputError
from medfocus.files.file_errors import unreadable

_JOINT = re.compile(r"(?<=\w)[-_ ](?=\w)")  # between two words; "HER2-" is not "HER2"


def class_name(text: str, item: str) -> str:
    """A class's name in Unicode's form NFC (UAX 15), with single spaces and none at its ends.

    Args:
        text: as it was read.
        item: where it was read, for the error.

    Raises:
        InputError: it holds a character that cannot be printed (`input.class_name`).
    """
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not name.isprintable():
        problem = f"names the class {name!r}, with a character that cannot be printed"
        raise InputError(item, problem, "remove the character", code="input.class_name")
    return name


def check_distinct(names: Iterable[str], item: str) -> None:
    """Refuse names that differ only in case, or in a dash, an underscore or a space between words.

    Args:
        names: from `class_name`, each once.
        item: where they were read, for the error.

    Raises:
        InputError: there are two such names; it has both (`input.similar_classes`).
    """
    known: dict[str, str] = {}
    for name in names:
        key = _JOINT.sub(" ", unicodedata.normalize("NFKC", name).casefold())
        if (other := known.setdefault(key, name)) != name:
            problem = f"has the classes {other!r} and {name!r}, which look like one"
            hint = "give one of them another name, or the same name to both"
            raise InputError(item, problem, hint, code="input.similar_classes")


def read_classes(path: Path) -> tuple[str, ...]:
    """Read class names, one per line, in UTF-8 with or without a byte order mark.

    Blank lines are ignored.

    Raises:
        FileError: the file is missing (`file.missing`) or cannot be read (`file.unreadable`).
        InputError: it is empty (`input.empty`), names a class twice (`input.duplicate_class`), or
            as `class_name` and `check_distinct`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        hint = "save it as text in UTF-8"
        raise FileError(str(path), "is not UTF-8", hint, code="file.unreadable") from error
    item = str(path)
    classes = tuple(name for line in lines if (name := class_name(line, item)))
    if len(set(classes)) != len(classes) or not classes:
        code = "input.duplicate_class" if classes else "input.empty"
        problem, hint = "is empty or names a class twice", "give one name per line"
        raise InputError(item, problem, hint, code=code)
    check_distinct(classes, item)
    return classes

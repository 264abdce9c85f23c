"""The engine directory's `manifest.json` as frozen, validated dataclasses.

The annotations are the schema: the reader walks them, so that a key that is missing, unknown or
of the wrong type is an error that names it, and nothing is ever silently ignored.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from medfocus.engine.artifact.parity import Parity, Thresholds
from medfocus.engine.artifact.precision import COMPUTE_PRECISIONS, ComputePrecision, Precision
from medfocus.errors import EngineDirectoryError, InputError
from medfocus.settings import Focus, Preprocessing, Prompts, Selection, require

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
DIGEST_NAME = "manifest.json.sha256"
HINT = "Export the engine again"


def _require_sha256(text: str, key: str) -> None:
    require(re.fullmatch("[0-9a-f]{64}", text) is not None, key, "is not a SHA-256 in hex")


@dataclass(frozen=True)
class Producer:
    """The program that wrote the directory."""

    name: str
    version: str


@dataclass(frozen=True)
class ClipModel:
    """CLIP: the architecture's name and the SHA-256 of the user's own weight file."""

    architecture: str
    weights_sha256: str

    def __post_init__(self) -> None:
        _require_sha256(self.weights_sha256, "weights_sha256")


@dataclass(frozen=True)
class Sam2Model:
    """SAM2: the architecture's name, its square input, the SHA-256 of the user's weight file."""

    architecture: str
    image_size: int
    weights_sha256: str

    def __post_init__(self) -> None:
        require(self.image_size > 0, "image_size", "is not positive")
        _require_sha256(self.weights_sha256, "weights_sha256")


@dataclass(frozen=True)
class Models:
    """The two networks of an engine."""

    clip: ClipModel
    sam2: Sam2Model


@dataclass(frozen=True)
class FileRecord:
    """What a file of the directory must be."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        _require_sha256(self.sha256, "sha256")
        require(self.bytes >= 0, "bytes", "is negative")


@dataclass(frozen=True)
class Manifest:
    """All that an engine directory says about itself.

    `buckets` are the batch sizes prepared for; `files` are all the other files of the directory
    by relative name. `backends` are the runtimes that the export wrote for and checked, and the
    precision that each was checked in. `parity` is what it measured against the float32 PyTorch
    model, and `thresholds` what it asked, by backend; by `segmenter size` where that is not the
    architecture's own. PyTorch in float32 is the reference itself, and is not among them.

    Raises:
        InputError: a value is out of its range; names the key.
    """

    producer: Producer
    models: Models
    precision: Precision
    focus: Focus
    selection: Selection
    prompts: Prompts
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    buckets: tuple[int, ...]
    files: Mapping[str, FileRecord]
    backends: Mapping[str, ComputePrecision]
    parity: Mapping[str, Parity]
    thresholds: Mapping[str, Thresholds]
    schema_version: Literal[1] = 1

    def __post_init__(self) -> None:
        require(
            self.preprocessing.segmenter.size == self.models.sam2.image_size,
            "preprocessing.segmenter.size",
            "differs from models.sam2.image_size",
        )
        named = bool(self.classes) and all(name.strip() for name in self.classes)
        require(named, "classes", "is empty or holds an empty name")
        require(len(set(self.classes)) == len(self.classes), "classes", "names a class twice")
        ascending = list(self.buckets) == sorted(set(self.buckets))
        require(
            bool(self.buckets) and self.buckets[0] > 0 and ascending,
            "buckets",
            "is not an ascending list of positive batch sizes",
        )
        require(bool(self.backends), "backends", "names no runtime")
        for name, precision in self.backends.items():
            able = precision in COMPUTE_PRECISIONS.get(name, ())
            require(able, "backends", f"{name} in {precision} is no backend of this version")
        for name in self.files:
            require(_stays_inside(name), "files", f"{name!r} is not a plain relative file name")


def _stays_inside(name: str) -> bool:
    r"""Whether `name` is a canonical relative POSIX path, on every system: no "..", no "\"."""
    path = PurePosixPath(name)
    return (
        name not in ("", ".", FILE_NAME, DIGEST_NAME)
        and str(path) == name
        and not path.is_absolute()
        and ".." not in path.parts
        and not set(name) & set("\\:")
        and name.isprintable()
    )


def to_json(manifest: Manifest) -> str:
    """The manifest as readable JSON, keys in the order of the dataclasses.

    Raises:
        EngineDirectoryError: the manifest holds what `from_json` would refuse.
    """
    content = {"schema_version": manifest.schema_version, **asdict(manifest)}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    from_json(text)
    return text


def from_json(text: str | bytes) -> Manifest:
    """Read a manifest; strict: what is not understood is refused.

    Raises:
        EngineDirectoryError: names `manifest.json` and the key.
    """
    try:
        content = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_unique_keys,
            parse_float=_finite,
            parse_int=_short_int,
            parse_constant=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise EngineDirectoryError(FILE_NAME, f"is not valid UTF-8 JSON ({error})", HINT) from error
    version = content.get("schema_version", SCHEMA_VERSION) if isinstance(content, dict) else None
    if type(version) is int and version != SCHEMA_VERSION:
        raise EngineDirectoryError(
            f"{FILE_NAME}: schema_version",
            f"is {version}, and this medfocus reads {SCHEMA_VERSION}",
            "Export the engine again with this version, or install the version that wrote it",
        )
    return _read_dataclass(Manifest, content, "")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("an object holds a key twice")
    return content


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _short_int(text: str) -> int:
    # A longer one is no size or count, and as a float it could overflow.
    if len(text) > 18:
        raise ValueError("a number is too large")
    return int(text)


def _fail(key: str, problem: str) -> EngineDirectoryError:
    return EngineDirectoryError(f"{FILE_NAME}: {key}" if key else FILE_NAME, problem, HINT)


_T = TypeVar("_T")


def _read_dataclass(kind: type[_T], value: Any, key: str) -> _T:
    prefix = f"{key}." if key else ""
    if type(value) is not dict:
        raise _fail(key, "is not an object")
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    if unknown := sorted(value.keys() - hints.keys()):
        raise _fail(prefix + unknown[0], "is not a known key")
    for name in hints:
        if name not in value:
            raise _fail(prefix + name, "is missing")
    content = {name: _read(hint, value[name], prefix + name) for name, hint in hints.items()}
    try:
        return kind(**content)
    except InputError as error:
        raise _fail(prefix + error.item, error.problem) from error


def _read(kind: Any, value: Any, key: str) -> Any:
    """`value`, as json.loads gave it, as the annotation `kind` wants it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _read_dataclass(kind, value, key)  # type: ignore[arg-type]
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in arguments):
            raise _fail(key, f"is {value!r}, not one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if type(value) is not list:
            raise _fail(key, "is not a list")
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(value) != len(arguments):
            raise _fail(key, f"holds {len(value)} values, not {len(arguments)}")
        items = enumerate(zip(arguments, value, strict=True))
        return tuple(_read(argument, item, f"{key}[{i}]") for i, (argument, item) in items)
    if origin is Mapping:
        if type(value) is not dict:
            raise _fail(key, "is not an object")
        return {name: _read(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _fail(key, f"is not of type {kind.__name__}")
    if kind is str and not value.isprintable():
        raise _fail(key, "holds a character that cannot be printed")
    return value

"""The engine directory's `manifest.json` as frozen, validated dataclasses.

The annotations are the schema: see `strict_json`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from medfocus.engine.artifact.parity import Parity, Thresholds
from medfocus.engine.artifact.precision import COMPUTE_PRECISIONS, ComputePrecision, Precision
from medfocus.engine.artifact.speed import Speed
from medfocus.engine.artifact.strict_json import parse_json, read_dataclass
from medfocus.errors import EngineDirectoryError, InputError
from medfocus.settings import (
    Focus,
    Preprocessing,
    Prompts,
    Selection,
    is_class_template,
    join_slices,
    require,
)

SCHEMA_VERSION = 3
# The keys that each version added, with the values that manifests of earlier ones are given.
ADDED: dict[int, dict[str, Any]] = {2: {"class_prompts": [], "join": "mean"}, 3: {"speeds": {}}}
FILE_NAME = "manifest.json"
DIGEST_NAME = "manifest.json.sha256"
HINT = "export the engine again"
MOST_IMAGES = 2**16  # per batch; of SAM2's inputs they would fill 800 GB


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
    """The SHA-256 and the size in bytes that a file of the directory must have."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        _require_sha256(self.sha256, "sha256")
        require(self.bytes >= 0, "bytes", "is negative")


@dataclass(frozen=True)
class Manifest:
    """Everything that an engine directory says about itself.

    Attributes:
        producer: the program that wrote the directory.
        models: the two networks.
        precision: the precision policy of the ONNX graphs.
        focus: how the focus mask steers the classifier.
        selection: which candidate masks may be the focus.
        prompts: the zero-shot prompts.
        preprocessing: of both networks' inputs.
        classes: in the order of the probabilities.
        class_prompts: the templates from whose texts the class embeddings were made; none if they
            were trained, or if the engine was written before they were recorded.
        buckets: ascending batch sizes that the engine was checked with, up to `MOST_IMAGES`.
        files: all other files of the directory, by relative name.
        backends: the runtimes that the engine was exported for and checked with, and the precision
            that each was checked in.
        parity: by backend, the differences measured from the float32 PyTorch model, which is the
            reference itself and not among them; also by `segmenter size`, if the segmenter's input
            is smaller than the architecture's own.
        thresholds: by the same keys, the limits that `parity` had to meet.
        join: how the slices of a series become one answer: `mean`, `max` or `focused:K`.
        speeds: by backend, how fast it was where the engine was exported; none if there was no
            other backend to compare it with.
        schema_version: of this file.

    Raises:
        InputError: a value is out of its range; the error names the key.
    """

    producer: Producer
    models: Models
    precision: Precision
    focus: Focus
    selection: Selection
    prompts: Prompts
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    class_prompts: tuple[str, ...]
    buckets: tuple[int, ...]
    files: Mapping[str, FileRecord]
    backends: Mapping[str, ComputePrecision]
    parity: Mapping[str, Parity]
    thresholds: Mapping[str, Thresholds]
    join: str
    speeds: Mapping[str, Speed]
    schema_version: Literal[3] = 3

    def __post_init__(self) -> None:
        require(
            self.preprocessing.segmenter.size == self.models.sam2.image_size,
            "preprocessing.segmenter.size",
            "differs from models.sam2.image_size",
        )
        named = bool(self.classes) and all(name.strip() for name in self.classes)
        require(named, "classes", "is empty or holds an empty name")
        require(len(set(self.classes)) == len(self.classes), "classes", "names a class twice")
        templates = all(map(is_class_template, self.class_prompts))
        require(templates, "class_prompts", "holds a text without {class}, or with other braces")
        ascending = list(self.buckets) == sorted(set(self.buckets))
        require(
            bool(self.buckets) and self.buckets[0] > 0 and ascending,
            "buckets",
            "is not an ascending list of positive batch sizes",
        )
        require(self.buckets[-1] <= MOST_IMAGES, "buckets", f"holds more than {MOST_IMAGES}")
        require(bool(self.backends), "backends", "names no runtime")
        for name, precision in self.backends.items():
            known = precision in COMPUTE_PRECISIONS.get(name, ())
            require(known, "backends", f"{name} in {precision} is not a backend of this version")
        join_slices(self.join)
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
    """The manifest as indented JSON, keys in the order of the dataclasses.

    Raises:
        EngineDirectoryError: the manifest holds a value that `from_json` would refuse.
    """
    content = {"schema_version": manifest.schema_version, **asdict(manifest)}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    from_json(text)
    return text


def from_json(text: str | bytes) -> Manifest:
    """Parse a manifest strictly: anything not understood is refused.

    Raises:
        EngineDirectoryError: with `manifest.json` and the key as its item.
    """
    try:
        content = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(
            "", "is not JSON in UTF-8, or holds a key twice or no usable number"
        ) from error
    version = content.get("schema_version", SCHEMA_VERSION) if isinstance(content, dict) else None
    if type(version) is int and 1 <= version < SCHEMA_VERSION:
        content = _upgraded(content, version)
    elif type(version) is int and version != SCHEMA_VERSION:
        raise EngineDirectoryError(
            f"{FILE_NAME}: schema_version",
            f"is {version}, and this medfocus reads 1 to {SCHEMA_VERSION}",
            "export the engine again with this version, or install the version that wrote it",
            code="engine.schema_unsupported",
        )
    try:
        return read_dataclass(Manifest, content)
    except InputError as error:
        raise _invalid(error.item, error.problem) from error


def _upgraded(content: dict[str, Any], version: int) -> dict[str, Any]:
    """A manifest of an earlier schema version as one of this version."""
    added: dict[str, Any] = {}
    for later in range(version + 1, SCHEMA_VERSION + 1):
        added |= ADDED[later]
    for key in added.keys() & content.keys():
        raise _invalid(key, f"is not a known key of schema version {version}")
    return {**content, **added, "schema_version": SCHEMA_VERSION}


def _invalid(key: str, problem: str) -> EngineDirectoryError:
    item = f"{FILE_NAME}: {key}" if key else FILE_NAME
    return EngineDirectoryError(item, problem, HINT, code="engine.manifest_invalid")

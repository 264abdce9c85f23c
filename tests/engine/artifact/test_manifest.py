"""The manifest: what is written can be read; anything else is an error that names the key."""

import copy
import json
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfocus.engine.artifact.manifest import (
    ClipModel,
    FileRecord,
    Manifest,
    Models,
    Producer,
    Sam2Model,
    from_json,
    to_json,
)
from medfocus.engine.artifact.parity import Parity, Thresholds
from medfocus.engine.artifact.precision import Precision
from medfocus.engine.artifact.speed import Speed
from medfocus.errors import EngineDirectoryError, InputError
from medfocus.settings import (
    ClassifierInput,
    Focus,
    Preprocessing,
    Prompts,
    SegmenterInput,
    Selection,
)
from tests.errors import refuses

HALF = (0.5, 0.5, 0.5)
PARITY = Parity(64, 0.99, 1.0, 0.001, 1.0, 0.02, 0.98, 0.97, 0.01, 0.003, "cpu")
MANIFEST = Manifest(
    producer=Producer("medfocus", "0.1.0"),
    models=Models(ClipModel("ViT-B-16", "a" * 64), Sam2Model("sam2.1_hiera_tiny", 1024, "b" * 64)),
    precision=Precision("fp16", ("MatMul",), ("Reshape",), ("pe_layer",), ("classifier: clip",)),
    focus=Focus("soft", 0.02, 0.1),
    selection=Selection("best", 0.002, 0.6, 0.3, 1.0),
    prompts=Prompts((((0.5, 0.5), (0.25, 1.0)), ((0.0, 0.0), (1.0, 1.0))), ((1, 0), (2, 3))),
    preprocessing=Preprocessing(
        SegmenterInput(1024, HALF, HALF),
        ClassifierInput(224, 14, "shortest", "bicubic", HALF, HALF),
    ),
    classes=("normal", "Läsion", "肺炎"),
    class_prompts=("a scan of {class}", "{class}, seen in MRI"),
    join="focused:12",
    buckets=(1, 8, 32),
    files={"plans/a.plan": FileRecord("c" * 64, 12), "head.safetensors": FileRecord("d" * 64, 0)},
    backends={"openvino": "int8", "torch": "fp16"},
    parity={"openvino": PARITY},
    thresholds={"openvino": Thresholds(0.9, 0.98, 0.01, 0.98, 0.1, 0.95, 0.9, 0.1, 0.1)},
    speeds={"openvino": Speed(0.25, "cpu", "A Processor @ 2.00GHz")},
)


def invalid(item: str | None = None) -> AbstractContextManager[Any]:
    return refuses(EngineDirectoryError, "engine.manifest_invalid", item)


def content() -> Any:
    return json.loads(to_json(MANIFEST))


def read_changed(path: str, value: Any) -> Manifest:
    """The manifest read from JSON with another value at `path`."""
    changed = content()
    *parents, last = path.split(".")
    place = changed
    for key in parents:
        place = place[key]
    place[last] = value
    return from_json(json.dumps(changed))


def test_reads_what_it_writes() -> None:
    text = to_json(MANIFEST)
    assert from_json(text) == MANIFEST
    assert to_json(from_json(text.encode())) == text
    assert text.startswith('{\n  "schema_version": 3,\n  "producer"')
    assert "肺炎" in text


def keys(value: Any, prefix: str = "") -> list[str]:
    """Every key of nested objects, as a path."""
    if not isinstance(value, dict):
        return []
    return [
        path
        for key, item in value.items()
        for path in (prefix + key, *keys(item, f"{prefix}{key}."))
    ]


# A file's name contains dots, and the keys of a mapping are free.
FREE = {f"{mapping}.openvino" for mapping in ("backends", "parity", "thresholds", "speeds")}
SCHEMA_KEYS = [
    key
    for key in keys(content())
    if not key.startswith("files.") and key not in {*FREE, "backends.torch"}
]


@pytest.mark.parametrize("path", SCHEMA_KEYS)
def test_missing_and_mistyped_keys_are_named(path: str) -> None:
    incomplete = content()
    *parents, last = path.split(".")
    place = incomplete
    for key in parents:
        place = place[key]
    del place[last]
    with invalid() as caught:
        from_json(json.dumps(incomplete))
    assert (caught.value.item, caught.value.problem) == (f"manifest.json: {path}", "is missing")
    for wrong in (None, True, [None]):
        with invalid() as caught:
            read_changed(path, wrong)
        # The list may be valid and its item not.
        assert caught.value.item in (f"manifest.json: {path}", f"manifest.json: {path}[0]")


@pytest.mark.parametrize("place", ["", "producer", "models.clip", "focus", "preprocessing"])
def test_unknown_keys_are_named(place: str) -> None:
    path = f"{place}.extra".lstrip(".")
    with invalid() as caught:
        read_changed(path, 1)
    assert caught.value.item == f"manifest.json: {path}"
    assert caught.value.problem == "is not a known key"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("precision.dtype", "fp8"),
        ("backends", {}),
        ("backends", {"jax": "fp32"}),
        ("backends", {"openvino": "fp16"}),
        ("backends", {"torch": "int8"}),
        ("backends.openvino", "int4"),
        ("parity.openvino.images", 1.5),
        ("thresholds.openvino.mask_iou", -0.1),
        ("models.clip.weights_sha256", "A" * 64),
        ("models.sam2.weights_sha256", "a" * 64 + "\n"),
        ("models.sam2.image_size", 1024.0),
        ("focus.mode", "strong"),
        ("focus.floor", 0),
        ("focus.floor", 1),
        ("focus.hard_threshold", 1.0),
        ("selection.policy", "all"),
        ("selection.min_area", -0.1),
        ("selection.max_area", 0.001),
        ("selection.max_area", 1.5),
        ("selection.min_score", 2),
        ("selection.stability_offset", -1),
        ("prompts.points", []),
        ("prompts.points", [[], []]),
        ("prompts.points", [[[0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]),
        ("prompts.points", [[[0.5, 1.5], [0, 0]], [[0, 0], [0, 0]]]),
        ("prompts.labels", [[1, 0]]),
        ("preprocessing.segmenter.std", [1, 0, 1]),
        ("preprocessing.segmenter.mean", [1, 1]),
        ("preprocessing.segmenter.size", 512),
        ("preprocessing.classifier.size", -224),
        ("preprocessing.classifier.patch_grid", 225),
        ("preprocessing.classifier.resize_mode", "stretch"),
        ("preprocessing.classifier.interpolation", "nearest"),
        ("classes", []),
        ("classes", ["a", " "]),
        ("classes", ["a", "a"]),
        ("class_prompts", ["a scan"]),
        ("join", "median"),
        ("join", "focused"),
        ("join", "focused:0"),
        ("class_prompts", ["{class} and {class}"]),
        ("class_prompts", ["a {} of {class}"]),
        ("buckets", []),
        ("buckets", [0, 1]),
        ("buckets", [8, 1]),
        ("buckets", [1, 1]),
        ("buckets", [1, 10**15]),
        ("speeds.openvino.seconds_per_image", 0),
        ("speeds.openvino.seconds_per_image", -0.5),
        ("speeds.openvino.device", "tpu"),
    ],
)
def test_values_out_of_range_are_named(path: str, value: Any) -> None:
    with invalid() as caught:
        read_changed(path, value)
    assert caught.value.item == f"manifest.json: {path}"


@pytest.mark.parametrize(
    ("path", "value", "item"),
    [
        ("classes", ["a", 1], "classes[1]"),
        ("classes", ["a\x1b[31m"], "classes[0]"),
        ("classes", ["\ud800"], "classes[0]"),
        ("buckets", [True], "buckets[0]"),
        ("prompts.labels", [[1, 4], [2, 3]], "prompts.labels[0][1]"),
        ("prompts.labels", [[1, True], [2, 3]], "prompts.labels[0][1]"),
        ("prompts.points", [[[0.5, 0.5, 0.5]]], "prompts.points[0][0]"),
        ("files", {"a.onnx": {"sha256": "a" * 64, "bytes": -1}}, "files.a.onnx.bytes"),
        ("files", {"a.onnx": {"sha256": "x", "bytes": 1}}, "files.a.onnx.sha256"),
        ("files", {"a.onnx": {"sha256": "a" * 64}}, "files.a.onnx.bytes"),
    ],
)
def test_values_within_lists_are_named(path: str, value: Any, item: str) -> None:
    with invalid() as caught:
        read_changed(path, value)
    assert caught.value.item == f"manifest.json: {item}"


def test_a_manifest_of_an_earlier_schema_version_has_the_defaults_of_what_was_added() -> None:
    """As medfocus 0.1 and 0.2 wrote it; a later version's key is as unknown to it as any other."""
    old = content()
    del old["speeds"]
    old["schema_version"] = 2
    assert from_json(json.dumps(old)) == replace(MANIFEST, speeds={})
    with invalid("manifest.json: speeds"):
        from_json(json.dumps(old | {"speeds": {}}))
    del old["class_prompts"], old["join"]
    old["schema_version"] = 1
    expected = replace(MANIFEST, class_prompts=(), join="mean", speeds={})
    assert from_json(json.dumps(old)) == expected
    with invalid("manifest.json: class_prompts"):
        from_json(json.dumps(old | {"class_prompts": []}))


@pytest.mark.parametrize("version", [0, 4, 99])
def test_another_schema_version_is_refused_first(version: int) -> None:
    with refuses(EngineDirectoryError, "engine.schema_unsupported", "schema_version"):
        from_json(json.dumps({"schema_version": version, "all": "else differs"}))


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/../../x", "a/..", "/etc/passwd", "a//b", "./a", "a/", "a\\b"),
        *("C:a", "manifest.json", "manifest.json.sha256", "a\0b", "a\nb", "\ud800"),
    ],
)
def test_names_that_leave_the_directory_are_refused(name: str) -> None:
    record = {"sha256": "a" * 64, "bytes": 1}
    with invalid("manifest.json: files"):
        read_changed("files", {name: record})
    with refuses(InputError, "input.invalid", "files"):
        replace(MANIFEST, files={name: FileRecord("a" * 64, 1)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        b"\xff{}",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": -Infinity}',
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        '{"a": 1%s}' % ("0" * 5000),
        to_json(MANIFEST).encode("utf-16"),
    ],
)
def test_json_that_is_not_strict_is_refused(text: str | bytes) -> None:
    with invalid() as caught:
        from_json(text)
    assert caught.value.item == "manifest.json"


@pytest.mark.parametrize("text", ["[]", "null", '"text"', "1"])
def test_json_that_is_not_an_object_is_refused(text: str) -> None:
    with invalid() as caught:
        from_json(text)
    assert caught.value.item == "manifest.json"


def test_float32_names_no_operators() -> None:
    with invalid("precision.half"):
        read_changed("precision.dtype", "fp32")


def test_a_manifest_that_could_not_be_read_is_not_written() -> None:
    with invalid("manifest.json"):
        to_json(replace(MANIFEST, parity={"torch": replace(PARITY, embedding_cosine=float("nan"))}))
    with refuses(InputError, "input.invalid", "backends"):
        replace(MANIFEST, backends={"torch": "int4"})  # type: ignore[dict-item]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 2000) | st.floats(-2, 2) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(SCHEMA_KEYS), JSON)
def test_any_value_anywhere_is_read_back_or_refused(path: str, value: Any) -> None:
    """There is no other exception, and nothing that is read is dropped or changed."""
    expected = copy.deepcopy(content())
    *parents, last = path.split(".")
    place = expected
    for key in parents:
        place = place[key]
    place[last] = value
    try:
        manifest = from_json(json.dumps(expected))
    except EngineDirectoryError:
        return
    assert json.loads(to_json(manifest)) == expected

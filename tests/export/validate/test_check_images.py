"""Which phantoms become an engine's check images."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.artifact.manifest import DIGEST_NAME, FILE_NAME
from medfocus.engine.artifact.parity import THRESHOLDS
from medfocus.engine.checking.check_images import read_check_images
from medfocus.engine.checking.self_check import measure
from medfocus.engine.io.images import SourceImage
from medfocus.export.config import ExportConfig
from medfocus.export.engine_directory import build
from medfocus.export.progress import ProgressReporter
from medfocus.export.validate import check_images
from medfocus.export.validate.check_images import DRAWN, KEPT, SEED, confirmed, lead
from medfocus.export.validate.images import phantoms
from medfocus.settings import Selection
from tests.conftest import random_bundle


def test_no_image_of_the_user_is_in_an_engine(tmp_path: Path) -> None:
    """Whatever the gate is given: its images may be patients'."""
    own = phantoms(4, SEED + 1)
    config = ExportConfig("bf16", ("torch",), buckets=(1,))
    build(tmp_path / "engine", random_bundle(), config, own, own)
    stored = read_check_images(read_engine_directory(tmp_path / "engine"))
    drawn = {image.pixels.tobytes() for image in phantoms(DRAWN, SEED)}
    assert 0 < len(stored) <= KEPT
    assert {check.pixels.tobytes() for check in stored} <= drawn
    whole = b"".join(path.read_bytes() for path in (tmp_path / "engine").rglob("*.*"))
    assert not any(image.pixels[100:108].tobytes() in whole for image in own)


def test_the_lead_is_over_the_best_candidate_with_another_mask() -> None:
    """SAM2 finds a region from several points: those candidates are one mask."""
    logits = torch.full((1, 2, 3, 8, 8), -10.0)
    logits[..., 2:6, 2:6] = 10.0
    logits[0, 1, 1:, 3:7, 3:7] = 10.0  # another region
    iou = torch.tensor([[[0.90, 0.89, 0.88], [0.87, 0.80, 0.40]]])
    selection = Selection(min_score=0.3)
    assert lead(logits, iou, selection) == pytest.approx(0.90 - 0.80)
    assert lead(logits, iou, replace(selection, min_score=0.85)) == pytest.approx(0.90 - 0.85)
    assert lead(logits, iou, replace(selection, min_score=0.95)) == 0.0
    logits[0, 0, 1] *= 0.9  # the same outline, and logits that no rounding gives
    assert lead(logits, iou, selection) == pytest.approx(0.90 - 0.89)


def test_what_a_backend_misses_on_the_machine_of_the_export_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mask that a near tie changes; without this the engine would refuse itself."""
    config = ExportConfig("bf16", ("torch",), buckets=(1,))
    manifest = build(tmp_path / "engine", random_bundle(), config, phantoms(2))
    directory = read_engine_directory(tmp_path / "engine")
    first, second, *others = read_check_images(directory)
    for name in (FILE_NAME, DIGEST_NAME):  # as while it is being built
        (directory.path / name).unlink()
    calls = []

    def tied(backend, pool, manifest, check):
        calls.append(check)
        figures = measure(backend, pool, manifest, check)
        return figures | ({"mask_iou": 0.3} if check in (first, *others) else {})

    monkeypatch.setattr(check_images, "measure", tied)
    drawn = [first, second, *others]
    kept, speeds = confirmed(directory.path, manifest, drawn, ProgressReporter())
    assert kept == [second]
    assert calls == drawn
    assert speeds == {}, "there is nothing to compare the one backend with"
    assert THRESHOLDS["bf16"].mask_iou > 0.3


def test_the_clearest_comes_first(engine_directory: Path) -> None:
    """Compared with SAM2's candidates for each, from the engine's own weights."""
    from medfocus.engine.backends.torch.backend import _load_segmenter
    from medfocus.engine.preprocess.batch import collate, prepare

    directory = read_engine_directory(engine_directory)
    manifest, segmenter = directory.manifest, _load_segmenter(directory)
    leads = []
    for check in read_check_images(directory):
        image = SourceImage(check.pixels, "check image")
        prepared = prepare(image, manifest.preprocessing, manifest.focus, manifest.prompts)
        batch = collate([prepared], manifest.preprocessing)
        with torch.inference_mode():
            masks, iou = segmenter.segmenter(
                *map(torch.from_numpy, (batch.segmenter, batch.points, batch.labels))
            )
        leads.append(lead(masks, iou, manifest.selection))
    assert leads == sorted(leads, reverse=True)
    assert leads[0] > 0

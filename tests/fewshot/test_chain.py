"""Fit, evaluate, export, classify: an engine answers exactly what `medfocus-eval` lists."""

import csv
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from medfocus.engine import Engine
from medfocus.export.command import main as export
from medfocus.fewshot import eval_command, fit_command
from medfocus.fewshot.data.dataset import Dataset


@pytest.mark.long
@pytest.mark.parametrize(
    ("adaptation", "focus"),
    [("lora", "soft"), ("probe", "hard"), ("tip", "overlay"), ("lora", "none")],
)
def test_fit_export_classify(
    adaptation: str, focus: str, brain: Dataset, cache: Path, tmp_path: Path
) -> None:
    head, engine_path = tmp_path / "head.safetensors", tmp_path / "engine"
    shared = ["--cache", str(cache), "--device", "cpu"]
    how = ["--shots", "3", "--adapt", adaptation, "--focus", focus, "--steps", "4"]
    assert fit_command.main([str(brain.root), "-o", str(head), *how, *shared]) == 0
    report = ["--head", str(head), "--report", str(tmp_path / "report")]
    assert eval_command.main([str(brain.root), *report, *shared]) == 0
    targets = ["--targets", "torch,onnx", "--batch", "1,8"]
    assert export(["--head", str(head), "-o", str(engine_path), *targets]) == 0
    with (tmp_path / "report/answers.csv").open(newline="") as file:
        answers = [*csv.DictReader(file)]
    files = [brain.root / answer["file"] for answer in answers]
    assert files == [item.path for item in brain.items if item.part == "test"]
    expected = np.array([[float(answer[name]) for name in brain.classes] for answer in answers])
    assert np.ptp(expected) > 0.1
    for backend in ("torch", "onnxruntime"):
        with closing(Engine.load(engine_path, backend=backend, device="cpu")) as engine:
            assert engine.backend == backend
            predictions = engine.classify(files, strict=True)
        found = np.array([[p.probabilities[name] for name in brain.classes] for p in predictions])
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert [p.focused for p in predictions] == [answer["focused"] == "1" for answer in answers]
        assert [p.label for p in predictions] == [answer["answer"] for answer in answers]

"""Test images that a head was trained on are left out only when asked, by pixels, and named."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from medfocus.errors import InputError
from medfocus.fewshot import eval_run
from medfocus.fewshot.data.folder import read_folder
from medfocus.fewshot.data.images import content_hash
from medfocus.fewshot.data.splitting.splits import Fraction, make_split
from medfocus.models.head import Head, uniform_strength
from tests.engine.io.read import read_images
from tests.errors import refuses
from tests.fewshot.data.files import png


def test_skip_bad_leaves_out_what_the_head_has_seen(tmp_path: Path) -> None:
    for name in ("train/a/1", "train/b/1", "test/a/1", "test/a/2", "test/b/1", "test/b/2"):
        png(tmp_path / f"{name}.png")
    with Image.open(tmp_path / "train/a/1.png") as image:
        image.save(tmp_path / "test/a/copy.bmp")
    (tmp_path / "test/b/damaged.png").write_text("no image")
    dataset = read_folder(tmp_path)
    split = make_split(dataset, Fraction(1), 0)
    seen = tuple(content_hash(read_images(dataset.items[i].path)[0]) for i in split.train)
    strength = uniform_strength(6)
    head = Head(
        *("clip", "0" * 64, "soft", ("a", "b"), torch.ones(2, 8), torch.tensor(9.0), strength),
        trained_on=seen,
    )
    backbones: Any = SimpleNamespace(check=lambda image: None)
    report = io.StringIO()
    usable = eval_run._usable(split, dataset, head, backbones, Console(file=report, width=300))
    assert [file.file for file in usable.test_files] == [
        *("test/a/1.png", "test/a/2.png", "test/b/1.png", "test/b/2.png")
    ]
    assert "left out: test/a/copy.bmp: " in report.getvalue()
    assert "test/b/damaged.png: " in report.getvalue()
    every = tuple(content_hash(read_images(tmp_path / file.file)[0]) for file in usable.test_files)
    known = Head(**{**vars(head), "trained_on": seen + every})
    with refuses(InputError, "split.too_few_files", dataset.name):
        eval_run._usable(split, dataset, known, backbones, Console(file=io.StringIO()))

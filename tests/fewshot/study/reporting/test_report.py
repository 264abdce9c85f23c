"""The report: complete, self-contained, and safe with any class names."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from medfocus.errors import FileError
from medfocus.fewshot.study.reporting.explain import Explanation
from medfocus.fewshot.study.reporting.gallery import GalleryItem
from medfocus.fewshot.study.reporting.hits import hit_gains
from medfocus.fewshot.study.reporting.report import write_report
from medfocus.files.atomic_write import atomic_write
from tests.errors import refuses
from tests.fewshot.study.fake_runs import IMAGES, fake_study

VOID = {"meta", "br", "img", "link"}


class Tags(HTMLParser):
    """Collects open tags, seen tags and references."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.references += [v for k, v in attrs if v and k in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [v for k, v in attrs if v and k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def item(correct: bool) -> GalleryItem:
    answer = "<b>&" if correct else "a"
    pixels = np.full((112, 112, 3), 120, np.uint8)
    return GalleryItem(
        "brain", "soft", "probe", pixels, np.eye(14, dtype=np.float32), True, "<b>&", answer, 0.75
    )


@pytest.mark.parametrize("evidence", [True, False])
def test_it_is_self_contained(tmp_path: Path, evidence: bool) -> None:
    explanations = [Explanation("brain", "soft", "probe", 50, 0.9, 0.4, 0.05, 0.8, 0.2, 0.7)]
    pictures = [item(True), item(False)]
    hits = hit_gains(fake_study(), {"brain": np.ones(IMAGES)})
    page = write_report(
        tmp_path / "report",
        "Few-shot: <script>alert(1)</script>",
        fake_study(),
        explanations if evidence else (),
        pictures if evidence else (),
        hits if evidence else (),
    )
    text = page.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "b" in tags.seen if evidence else "b" not in tags.seen
    assert all(re.match("data:image/png;base64,|#", each) for each in tags.references)
    assert text.count("<svg") == 1 + 2 + 2  # accuracy; confusion and calibration, two modes
    assert ("Was it the lesion?" in text) == evidence
    assert ("where it missed" in text) == evidence
    summary = json.loads((page.parent / "summary.json").read_text())
    assert len(summary["rows"]) == 5
    assert len(summary["explanations"]) == len(summary["hits"]) == evidence
    assert (page.parent / "summary.csv").read_text().count("\n") == 6
    again = write_report(tmp_path / "again", "Few-shot", fake_study())
    assert (
        again.read_text() == write_report(tmp_path / "more", "Few-shot", fake_study()).read_text()
    )


def test_a_single_run(tmp_path: Path) -> None:
    text = write_report(tmp_path, "one", fake_study()[:1]).read_text()
    assert text.count("<svg") == 2


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic_write(tmp_path / "x.txt", "before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refuses(FileError, "file.unwritable", "x.txt"):
        atomic_write(tmp_path / "x.txt", "after")
    assert [file.name for file in tmp_path.iterdir()] == ["x.txt"]
    assert (tmp_path / "x.txt").read_text() == "before"

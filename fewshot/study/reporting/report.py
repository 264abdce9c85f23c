"""Writes a study's report: one self-contained HTML page, a CSV file and a JSON file."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from medfocus.fewshot.study.reporting.explain import Explanation
from medfocus.fewshot.study.reporting.gallery import GalleryItem
from medfocus.fewshot.study.reporting.hits import HitGain
from medfocus.fewshot.study.reporting.plots import (
    accuracy_figure,
    confusion_figure,
    reliability_figure,
)
from medfocus.fewshot.study.reporting.summary import cells, csv_text, points, summarise
from medfocus.fewshot.study.run import Run
from medfocus.files.atomic_write import atomic_write

SIDE = 224  # pixels, of a gallery picture


def write_report(
    folder: Path,
    title: str,
    runs: Sequence[Run],
    explanations: Sequence[Explanation] = (),
    gallery: Sequence[GalleryItem] = (),
    hits: Sequence[HitGain] = (),
    left_out: int = 0,
) -> Path:
    """Write report.html, summary.csv and summary.json.

    Args:
        folder: of the three files.
        title: of the page.
        runs: of one or more data sets.
        explanations: measured attention.
        gallery: predictions as pictures.
        hits: gains by hit and miss.
        left_out: number of files left out because they cannot be used.

    Returns:
        the page.

    Raises:
        FileError: the files cannot be written.
        InputError: runs of one data set have different test images.
    """
    rows = summarise(runs)
    summary = {
        "left_out": left_out,
        "rows": [row.to_json() for row in rows],
        "hits": [gain.to_json() for gain in hits],
        "explanations": [asdict(explanation) for explanation in explanations],
    }
    atomic_write(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    atomic_write(folder / "summary.csv", csv_text(rows))
    # A curve needs at least two amounts.
    drawn = [
        adaptation
        for adaptation in dict.fromkeys(row.adaptation for row in rows)
        if len({row.amount for row in rows if row.adaptation == adaptation}) > 1
    ]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        title=title,
        rows=rows,
        cells=cells,
        accuracies=[(adaptation, accuracy_figure(rows, adaptation)) for adaptation in drawn],
        confusions=[confusion_figure(group, name) for name, group in _last(runs)],
        reliabilities=[(name, reliability_figure(group)) for name, group in _last(runs)],
        left_out=left_out,
        hits=hits,
        points=points,
        explanations=explanations,
        pictures=[(item, _picture(item)) for item in gallery],
    )
    atomic_write(folder / "report.html", page)
    return folder / "report.html"


def _last(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """The runs of each data set's last adaptation and amount, with the main focus modes."""
    groups: dict[str, list[Run]] = {}
    for dataset in dict.fromkeys(run.setting.dataset for run in runs):
        found = [r for r in runs if r.setting.dataset == dataset and r.setting.masks == "found"]
        last = found[-1].setting
        for focus in dict.fromkeys(run.setting.focus for run in found):
            if focus not in ("none", "soft", last.focus):
                continue
            group = [
                run
                for run in found
                if (run.setting.focus, run.setting.adaptation, run.setting.amount)
                == (focus, last.adaptation, last.amount)
            ]
            groups[f"{dataset}, {last.adaptation}, {last.amount}, {focus}"] = group
    return [*groups.items()]


def _picture(item: GalleryItem) -> str:
    """CLIP's view and, next to it, the same dimmed by the patch focus, as base64 PNG."""
    seen = Image.fromarray(item.pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    share = item.patch_focus if item.focused else np.ones_like(item.patch_focus)
    weight = np.repeat(np.rint(255 * np.clip(share, 0.15, 1)).astype(np.uint8)[..., None], 3, 2)
    mask = Image.fromarray(weight).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    looked = Image.fromarray(
        (np.asarray(seen, np.uint16) * np.asarray(mask, np.uint16) // 255).astype(np.uint8)
    )
    both = Image.new("RGB", (2 * SIDE, SIDE))
    both.paste(seen, (0, 0))
    both.paste(looked, (SIDE, 0))
    stream = io.BytesIO()
    both.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()

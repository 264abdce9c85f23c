"""The content of an engine directory as tables for a terminal."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from medfocus.engine.artifact.manifest import Manifest
from medfocus.engine.artifact.speed import Speed
from medfocus.terminal import printable


def summary(
    manifest: Manifest,
    runs_here: Mapping[str, str] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> RenderableType:
    """Tables of models, files and checks.

    Args:
        manifest: of a directory that was read or written.
        runs_here: for each backend, whether it runs on this machine.
        seconds: of each stage of the export.
    """
    tables: list[RenderableType] = [_models(manifest), _files(manifest)]
    tables.append(_backends(manifest, runs_here))
    if seconds is not None:
        tables.append(_stages(seconds))
    return Group(*tables)


def _models(manifest: Manifest) -> Table:
    models, precision = manifest.models, manifest.precision
    blocks = len(precision.float32_blocks)
    table = Table(show_header=False)
    for name, value in (
        ("CLIP", f"{models.clip.architecture}, weights {models.clip.weights_sha256[:12]}"),
        (
            "SAM2",
            f"{models.sam2.architecture} at {models.sam2.image_size} pixels,"
            f" weights {models.sam2.weights_sha256[:12]}",
        ),
        ("focus", manifest.focus.mode),
        ("prompts", _prompts(manifest)),
        ("selection", _selection(manifest)),
        ("slices of a series", f"joined by {manifest.join}"),
        ("classes", ", ".join(manifest.classes)),
        *(("class prompt", template) for template in manifest.class_prompts),
        ("precision", precision.dtype + (f", {blocks} blocks in fp32" if blocks else "")),
        ("batch sizes", ", ".join(map(str, manifest.buckets))),
        ("written by", f"{manifest.producer.name} {manifest.producer.version}"),
    ):
        table.add_row(name, Text(printable(value)))
    return table


def _prompts(manifest: Manifest) -> str:
    prompts = manifest.prompts.labels
    return f"{len(prompts)}, points each: {len(prompts[0])}"


def _selection(manifest: Manifest) -> str:
    chosen = manifest.selection
    return (
        f"{chosen.policy}; area {chosen.min_area:g} to {chosen.max_area:g}, score at least"
        f" {chosen.min_score:g}, stability at ±{chosen.stability_offset:g}"
    )


def _files(manifest: Manifest) -> Table:
    table = Table("file")
    table.add_column("size", justify="right")
    table.add_column("SHA-256")
    for name, record in manifest.files.items():
        table.add_row(Text(printable(name)), size(record.bytes), record.sha256[:12])
    table.add_row("total", size(sum(record.bytes for record in manifest.files.values())), "")
    return table


def size(count: int) -> str:
    """Bytes in MB (10⁶ bytes), below 1 MB in kB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


FIGURES: tuple[tuple[str, str, str], ...] = (
    ("embedding cosine", "embedding_cosine", ".6f"),
    ("same label", "top1_agreement", ".1%"),
    ("probability diff.", "probability_difference", ".1e"),
    ("same focused", "focused_agreement", ".1%"),
    ("mask IoU", "mask_iou", ".4f"),
    ("mask IoU, batch and single", "mask_iou_alone", ".4f"),
    ("mask logit error", "mask_logit_error", ".1e"),
    ("focus score error", "score_error", ".1e"),
    ("patch focus diff.", "patch_focus_difference", ".1e"),
    ("images", "images", "d"),
    ("checked on", "device", "s"),
)


def _backends(manifest: Manifest, runs_here: Mapping[str, str] | None) -> Table:
    """One column per backend, one row per figure: what was measured, and its limit in brackets."""
    # The column `segmenter size` is added where that is not the architecture's native size.
    names = list(dict.fromkeys([*manifest.backends, *manifest.parity]))
    table = Table("backend", *(Column(Text(printable(name))) for name in names))
    table.add_row("precision", *(manifest.backends.get(name, "fp32") for name in names))
    for label, figure, form in FIGURES:
        cells = []
        for name in names:
            if name not in manifest.parity:
                cells.append("reference")
                continue
            cell = format(getattr(manifest.parity[name], figure), form)
            limit = getattr(manifest.thresholds.get(name), figure, None)
            cells.append(cell if limit is None else f"{cell} ({limit:g})")
        table.add_row(label, *cells)
    if manifest.speeds:
        table.add_row("ms per image", *(_speed(manifest.speeds.get(name)) for name in names))
    if runs_here is not None:
        table.add_row(
            "on this machine", *(Text(printable(runs_here.get(name, ""))) for name in names)
        )
    return table


def _speed(speed: Speed | None) -> Text:
    if speed is None:
        return Text("")
    return Text(printable(f"{1e3 * speed.seconds_per_image:.3g}, {speed.processor}"))


def _stages(seconds: Mapping[str, float]) -> Table:
    table = Table("stage")
    table.add_column("seconds", justify="right")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.1f}")
    table.add_row("total", f"{sum(seconds.values()):.1f}")
    return table

"""Build an engine directory for the torch backend.

python -m medfocus.export --head head.safetensors -o engines/mine
python -m medfocus.export --classes classes.txt -o engines/mine
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from medfocus.errors import InputError, MedfocusError
from medfocus.export.engine_directory import Parts, build
from medfocus.models.clip import FocusCLIP
from medfocus.models.head import Head, uniform_strength
from medfocus.models.loading import load_clip, load_segmenter
from medfocus.models.presets import PRESETS, preset
from medfocus.models.text import class_embeddings
from medfocus.settings import Focus, FocusMode, Selection


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, load, build."""
    options = _parser().parse_args(arguments)
    try:
        build(options.out, _parts(options), force=options.force)
    except MedfocusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: engine directory written")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medfocus.export", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="engine directory to write")
    parser.add_argument("--preset", default="tiny", help=", ".join(PRESETS))
    parser.add_argument("--clip-weights", help="file or owner/name@<commit>:<file>")
    parser.add_argument("--text-folder", type=Path, help="of a Hugging Face text encoder")
    parser.add_argument("--sam2-weights", help="file or owner/name@<commit>:<file>")
    parser.add_argument("--segmenter-size", type=int, help="side of SAM2's input, pixels")
    classes = parser.add_mutually_exclusive_group(required=True)
    classes.add_argument("--head", type=Path, help="a head that few-shot adaptation wrote")
    classes.add_argument("--classes", type=Path, help="class names, a line each: zero-shot")
    parser.add_argument(
        "--focus",
        choices=get_args(FocusMode),
        help="default: what the head was made with, or soft",
    )
    parser.add_argument("--selection", choices=("best", "union"), default="best")
    parser.add_argument("--force", action="store_true", help="replace an engine that is there")
    return parser


def _parts(options: argparse.Namespace) -> Parts:
    chosen = preset(options.preset)
    # What is quick to refuse comes before gigabytes of weights.
    head = Head.read(options.head) if options.head else None
    classes = _read_classes(options.classes) if options.classes else ()
    loaded = load_clip(chosen.clip, options.clip_weights, options.text_folder)
    segmenter, segmenter_sha256 = load_segmenter(
        chosen.sam2, options.sam2_weights, options.segmenter_size
    )
    clip = FocusCLIP(loaded.model.visual)
    if head is None:
        text = class_embeddings(loaded.model, loaded.tokenize, classes)
        strength = uniform_strength(clip.layers)
        focus: FocusMode = options.focus or "soft"
        head = Head(chosen.clip, loaded.sha256, focus, classes, text, loaded.logit_scale, strength)
    return Parts(
        preset=chosen,
        clip=clip,
        clip_sha256=loaded.sha256,
        segmenter=segmenter,
        segmenter_sha256=segmenter_sha256,
        head=head,
        focus=Focus(mode=options.focus or head.focus),
        selection=Selection(policy=options.selection),
    )


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            str(path), f"cannot be read ({error})", "give a UTF-8 text file"
        ) from error
    classes = tuple(line.strip() for line in lines if line.strip())
    if len(set(classes)) != len(classes) or not classes:
        raise InputError(str(path), "is empty or names a class twice", "give a name a line")
    return classes


if __name__ == "__main__":
    sys.exit(main())

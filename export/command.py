"""`medfocus-export`: models and classes to an engine directory, built and checked.

medfocus-export --fp16
medfocus-export --preset base --clip-weights FILE --sam2-weights FILE --classes FILE -o DIR
medfocus-export --inspect DIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.backends.registry import load_backend
from medfocus.engine.io.results import printable
from medfocus.errors import InputError, MedfocusError
from medfocus.export.summary import summary
from medfocus.settings import FocusMode

OK, UNUSABLE, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0; 2 where nothing was written, for whatever reason; 130 for Ctrl-C.
    """
    options = _parser().parse_args(argv)
    report = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    try:
        if options.inspect is not None:
            _inspect(options.inspect)
        else:
            _export(options, report)
    except MedfocusError as error:
        report.print(f"error: {printable(str(error))}")
        return UNUSABLE
    except KeyboardInterrupt:
        report.print("Interrupted; nothing was written")
        return INTERRUPTED
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medfocus-export",
        description="Build an engine directory, check it against the float32 PyTorch model, and"
        " write it only if it passes.",
    )
    add = parser.add_argument
    add("-o", "--out", metavar="DIR", type=Path, help="default: engines/<preset>")
    add("--inspect", metavar="DIR", type=Path, help="show what an engine holds; verify it")
    add("--force", action="store_true", help="replace an engine that is there")
    models = parser.add_argument_group("models")
    add = models.add_argument
    add("--preset", default="tiny", help="tiny (weights are shipped), base, large or biomed")
    add("--clip", metavar="NAME", help="another CLIP architecture than the preset's")
    add("--clip-weights", metavar="FILE", help="a file, or owner/name@<commit>:<file> of the hub")
    add("--text-folder", metavar="DIR", type=Path, help="of a Hugging Face text encoder")
    add("--sam2", metavar="NAME", help="another SAM2 architecture than the preset's")
    add("--sam2-weights", metavar="FILE", help="a file, or owner/name@<commit>:<file> of the hub")
    add("--segmenter-size", metavar="S", type=int, help="side of SAM2's input, pixels")
    answer = parser.add_argument_group("what it answers")
    classes = answer.add_mutually_exclusive_group()
    classes.add_argument("--head", metavar="FILE", type=Path, help="what few-shot adaptation wrote")
    classes.add_argument(
        "--classes", metavar="FILE", type=Path, help="class names, a line each: zero-shot"
    )
    add = answer.add_argument
    add(
        "--focus",
        choices=get_args(FocusMode),
        help="default: what the head was made with, or soft",
    )
    add("--selection", choices=("best", "union"), default="best", help="of SAM2's masks")
    build = parser.add_argument_group("how it is built")
    precision = build.add_mutually_exclusive_group()
    for dtype in ("fp32", "fp16", "bf16"):
        precision.add_argument(
            f"--{dtype}",
            dest="dtype",
            action="store_const",
            const=dtype,
            help="the default" if dtype == "fp32" else None,
        )
    parser.set_defaults(dtype="fp32")
    add = build.add_argument
    add(
        "--targets",
        metavar="LIST",
        default="auto",
        help="of onnx, openvino, torch, tensorrt, with commas; default: those installed here",
    )
    add("--int8", action="store_true", help="OpenVINO computes in int8")
    add(
        "--trt-attention",
        choices=("native", "plugin"),
        default="native",
        help="of TensorRT's classifier: its own, or the Triton kernel as a plugin",
    )
    add("--batch", metavar="LIST", help="batch sizes, as 1,8,32; default: the preset's")
    add("--calibration", metavar="DIR", type=Path, help="images to check and calibrate on")
    return parser


def _export(options: argparse.Namespace, report: Console) -> None:
    # Here and not above: to inspect an engine, torch need not be installed.
    try:
        from medfocus.export import run
    except ModuleNotFoundError as error:
        raise InputError(
            "medfocus-export", f"{error.name} is not installed", "pip install 'medfocus[export]'"
        ) from error
    out = options.out or Path("engines") / options.preset
    manifest, seconds = run.export(options, out, report)
    Console(highlight=False).print(summary(manifest, seconds=seconds))
    report.print(f"{out}: engine directory written")


def _inspect(path: Path) -> None:
    directory = read_engine_directory(path)
    runs_here = {}
    for name in directory.manifest.backends:
        try:
            backend = load_backend(directory, name, "auto")
        except MedfocusError as error:
            runs_here[name] = f"no: {error.problem}"
        else:
            runs_here[name] = f"runs on {backend.device}"
            backend.close()
    console = Console(highlight=False)
    console.print(summary(directory.manifest, runs_here))
    console.print(f"{len(directory.manifest.files)} files, every SHA-256 as in the manifest")

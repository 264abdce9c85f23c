"""`medfocus export`: models and classes to an engine directory, built and checked.

Exit codes: 0 success; 2 wrong usage; 3 refused by the parity gate, and nothing written; 4 input or
output error; 130 interrupted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from medfocus.command_line import command_parser, noting, run
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.backends.registry import load_backend
from medfocus.errors import MedfocusError
from medfocus.exit_codes import MEANINGS, ExitCode
from medfocus.export.summary import summary
from medfocus.models.options import add_weight_options
from medfocus.settings import FocusMode


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command, as `medfocus.command_line.run` does."""
    return run("export", parser(), _export_or_inspect, argv, prog)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser(
        "export",
        "Build an engine directory, check it against the float32 PyTorch model, and write it only"
        " if it passes.",
        """
medfocus export --fp16                                      the shipped models, no download
medfocus export --preset base --clip-weights CLIP.safetensors --sam2-weights SAM2.pt \\
    --classes classes.txt --fp16 -o engines/mine            zero-shot, for your classes
medfocus export --head head.safetensors -o engines/mine     a head from medfocus fit
medfocus export --inspect engines/mine                      verify and describe an engine
""",
        {ExitCode.REFUSED: MEANINGS[ExitCode.REFUSED]},
    )
    _add_output_options(parser)
    _add_model_options(parser)
    _add_class_options(parser)
    _add_build_options(parser)
    return parser


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add(
        "-o",
        "--out",
        metavar="DIR",
        type=Path,
        help="engine directory to write (default: engines/<preset>)",
    )
    add(
        "--force",
        action="store_true",
        help="replace the engine directory if there is one (default: refuse)",
    )
    add(
        "--inspect",
        metavar="DIR",
        type=Path,
        help="build nothing: verify an engine directory, and show what it holds and which of its"
        " backends run here (default: build)",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    add = add_weight_options(parser).add_argument
    add("--clip", metavar="NAME", help="CLIP architecture (default: the preset's)")
    add("--sam2", metavar="NAME", help="SAM2 architecture (default: the preset's)")
    add(
        "--segmenter-size",
        metavar="S",
        type=int,
        help="side of SAM2's square input in pixels, a multiple of 32; smaller is faster"
        " (default: the architecture's)",
    )


def _add_class_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("classes and focus")
    classes = group.add_mutually_exclusive_group()
    classes.add_argument(
        "--head",
        metavar="FILE",
        type=Path,
        help="head from medfocus fit, with its classes (default: zero-shot classification)",
    )
    classes.add_argument(
        "--classes",
        metavar="FILE",
        type=Path,
        help="class names for zero-shot classification, one name per line (default: the phantoms'"
        " classes, only for tiny)",
    )
    add = group.add_argument
    add(
        "--focus",
        choices=get_args(FocusMode),
        help="how the focus mask steers CLIP: none ignores it, overlay paints it over the image,"
        " soft biases attention, hard hides everything else (default: the head's, or soft)",
    )
    add(
        "--selection",
        choices=("best", "union"),
        default="best",
        help="of SAM2's candidate masks: the best one, or the union of all that pass"
        " (default: best)",
    )
    add(
        "--join",
        metavar="RULE",
        default="mean",
        help="how the slices of a series become one answer: mean, max, or focused:K, the mean of"
        " the K slices of highest focus score (default: mean)",
    )


def _add_build_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("build")
    precision = group.add_mutually_exclusive_group()
    precision.add_argument(
        "--fp32",
        dest="dtype",
        action="store_const",
        const="fp32",
        default="fp32",
        help="compute in float32 (the default)",
    )
    precision.add_argument(
        "--fp16",
        dest="dtype",
        action="store_const",
        const="fp16",
        help="compute in float16 where the parity gate allows it, for GPUs; smaller files"
        " (default: --fp32)",
    )
    precision.add_argument(
        "--bf16",
        dest="dtype",
        action="store_const",
        const="bf16",
        help="compute in bfloat16 where the parity gate allows it, for CPUs and GPUs that support"
        " it (default: --fp32)",
    )
    add = group.add_argument
    add(
        "--int8",
        action="store_true",
        help="quantise OpenVINO's graphs to int8, calibrated on images (default: off)",
    )
    add(
        "--targets",
        metavar="LIST",
        default="auto",
        help="runtimes to build for, separated by commas: onnx, openvino, torch, tensorrt"
        " (default: auto, those that are installed here)",
    )
    add(
        "--trt-attention",
        choices=("native", "plugin"),
        default="native",
        help="attention in TensorRT's classifier: TensorRT's own, or the Triton kernel as a plugin"
        " (default: native)",
    )
    add(
        "--batch",
        metavar="LIST",
        help="batch sizes to prepare for and check, in images, ascending, as 1,8,32 (default: the"
        " preset's)",
    )
    add(
        "--calibration",
        metavar="DIR",
        type=Path,
        help="folder of images to check and calibrate on (default: phantoms)",
    )


def _export_or_inspect(options: argparse.Namespace, console: Console) -> int:
    if options.inspect is not None:
        _inspect(options.inspect)
    else:
        with noting("nothing was written", KeyboardInterrupt):
            _export(options, console)
    return ExitCode.OK


def _export(options: argparse.Namespace, console: Console) -> None:
    from medfocus.export import run as run_module  # needs torch; --inspect and --help do not

    out = options.out or Path("engines") / options.preset
    manifest, seconds = run_module.export(options, out, console)
    Console(highlight=False).print(summary(manifest, seconds=seconds))
    console.print(f"{out}: engine directory written")


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

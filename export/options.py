"""The options of `medfocus export`. No torch is imported here: `--help` must not wait for it."""

import argparse
from pathlib import Path
from typing import get_args

from medfocus.command_line import whole_number
from medfocus.models.options import add_weight_options
from medfocus.settings import FocusMode, Selection

MOST_PER_SIDE = 32  # of a grid of prompts, as in SAM's own automatic masks


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all of them."""
    _add_output_options(parser)
    _add_model_options(parser)
    _add_class_options(parser)
    _add_segmentation_options(parser)
    _add_build_options(parser)


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
    group = parser.add_argument_group("engines that are there already")
    add = group.add_mutually_exclusive_group().add_argument
    add(
        "--inspect",
        metavar="DIR",
        type=Path,
        help="build nothing: check every hash of an engine directory, and show what it holds and"
        " which of its backends run here (default: build)",
    )
    add(
        "--verify",
        metavar="DIR",
        type=Path,
        help="build nothing: check every hash of an engine directory, and whether its backends give"
        " the float32 model's answers for its check images on this machine (default: build)",
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
        "--class-prompt",
        metavar="TEMPLATE",
        action="append",
        help="for zero-shot classification, a sentence with {class} in the place of the class's"
        " name; given several times, the embeddings are averaged (default: 'This is a photo of"
        " {class}')",
    )
    group.add_argument(
        "--join",
        metavar="RULE",
        default="mean",
        help="how the slices of a series become one answer: mean, max, or focused:K, the mean of"
        " the K slices of highest focus score (default: mean)",
    )


def _add_segmentation_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts and selection of SAM2's masks")
    prompts = group.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt-grid",
        metavar="N",
        type=whole_number(1, MOST_PER_SIDE),
        help="N x N prompts of one point each, evenly spaced (default: 3)",
    )
    prompts.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="prompts as JSON: points and labels as in an engine's manifest, x and y in [0, 1]"
        " (default: the grid)",
    )
    add = group.add_argument
    add(
        "--selection",
        choices=("best", "union"),
        default="best",
        help="of SAM2's candidate masks: the best one, or the union of all that pass"
        " (default: best)",
    )
    for name, what in (
        ("min_area", "smallest part of the image that a mask may cover, in [0, 1)"),
        ("max_area", "largest part of the image that a mask may cover, in (0, 1]"),
        ("min_score", "lowest score, predicted IoU times stability, that passes, in [0, 1]"),
        (
            "stability_offset",
            "a mask's stability is the IoU of its cuts at logits above plus and minus this",
        ),
    ):
        add(
            f"--{name.replace('_', '-')}",
            metavar="X",
            type=float,
            default=getattr(Selection, name),
            help=f"{what} (default: %(default)s)",
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

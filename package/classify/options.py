"""The options of `medfocus classify`, and which of them go together."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from medfocus.command_line import command_parser, whole_number
from medfocus.engine.backends.device import device_option
from medfocus.engine.backends.registry import NAMES
from medfocus.engine.evidence.files import MASK_FORMATS
from medfocus.engine.io.reading.limits import ReadingLimits
from medfocus.engine.io.results.output import FORMATS
from medfocus.errors import InputError
from medfocus.exit_codes import MEANINGS, ExitCode

# What is set where the engine runs, with the values that say nothing.
_OF_ENGINE: Mapping[str, object] = {
    "batch_size": None,
    "read_seconds": ReadingLimits.seconds,
    "trust_files": False,
    "backend": "auto",
    "device": "auto",
}
_OF_SERVICE: Mapping[str, object] = {"engine": None, "token_file": None}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser(
        "classify",
        "Classify images with an engine directory, and say where the model was made to look.",
        """
medfocus classify engines/demo scans/ --overlays pictures/ --masks masks/
medfocus classify engines/demo 'study/*.dcm' study.zip -o results.jsonl
medfocus classify engines/demo study/ brain.nii.gz --group series
find scans -newer last.csv | medfocus classify engines/demo --from - --format csv
medfocus classify --server https://gpu1:8443 --token-file token scans/ -o results.csv
""",
        {code: MEANINGS[code] for code in (ExitCode.SOME_FAILED, ExitCode.REFUSED)},
    )
    add = parser.add_argument
    add(
        "engine_directory",
        metavar="ENGINE_DIR",
        nargs="?",
        help="engine directory, from medfocus export (not with --server)",
    )
    add(
        "inputs",
        metavar="INPUT",
        nargs="*",
        default=[],
        help="image, DICOM or NIfTI file, folder (searched with its subfolders), pattern in quotes,"
        " zip archive of images, or DICOMDIR",
    )
    add(
        "--from",
        dest="listed",
        metavar="FILE",
        help="read the inputs from this file, one per line, or from stdin with - (this or INPUT is"
        " required)",
    )
    parser.add_argument(
        "--group",
        choices=("series",),
        help="series: one answer per DICOM series or NIfTI volume, joined from those of its slices"
        " (default: one per image)",
    )
    parser.add_argument(
        "--boxes",
        metavar="CSV",
        type=Path,
        help="read from this file what to look at: columns file,left,top,right,bottom, in pixels,"
        " file as results name it (default: the engine's own prompts for each image)",
    )
    output = parser.add_argument_group("output")
    add = output.add_argument
    add(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write the results to this .csv, .json or .jsonl file; an interrupted run resumes when"
        " the same command is run again (default: -, which prints them)",
    )
    add(
        "--format",
        choices=("table", *FORMATS),
        help="of the results (default: as FILE's suffix says, or table without -o)",
    )
    add(
        "--overlays",
        metavar="DIR",
        type=Path,
        help="also write one PNG per image that shows its focus mask, or per series one of the"
        " slice that speaks most for its answer (default: none)",
    )
    add(
        "--masks",
        metavar="DIR",
        type=Path,
        help="also write one focus mask per image, as large as the image (default: none)",
    )
    add(
        "--mask-format",
        choices=MASK_FORMATS,
        default=MASK_FORMATS[0],
        help="of the masks: png is 0 and 255, npy a NumPy array of bool (default: %(default)s)",
    )
    add(
        "--top-k",
        metavar="K",
        type=whole_number(1),
        help="show the K most probable classes, and write their probabilities only (default: show"
        " one, write all)",
    )
    add(
        "--restart",
        action="store_true",
        help="with -o: discard the results of an interrupted run (default: resume it)",
    )
    service = parser.add_argument_group("service")
    add = service.add_argument
    add(
        "--server",
        metavar="URL",
        help="have an engine of this service answer, as https://host:8443 (default: ENGINE_DIR)",
    )
    add(
        "--engine",
        metavar="NAME",
        help="with --server: name of the engine (default: the only one that the service has)",
    )
    add(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="with --server: read the token from this file (default: the environment variable"
        " MEDFOCUS_TOKEN, or none)",
    )
    execution = parser.add_argument_group("execution")
    add = execution.add_argument
    add(
        "--batch-size",
        metavar="N",
        type=whole_number(1),
        help="images per batch (default: the largest that the engine was exported for)",
    )
    add(
        "--read-seconds",
        metavar="S",
        type=float,
        default=ReadingLimits.seconds,
        help="limit on reading one image of a file, in seconds of processor time (default:"
        " %(default)g)",
    )
    add(
        "--trust-files",
        action="store_true",
        help="read files in the engine's own process, where one that crashes its decoder ends the"
        " run: a little faster (default: in processes of their own)",
    )
    add(
        "--backend",
        choices=("auto", *NAMES),
        default="auto",
        help="runtime; auto takes the fastest that is installed (default: auto)",
    )
    add(
        "--device",
        metavar="DEVICE",
        type=device_option,
        default="auto",
        help="cpu, cuda for the first GPU, cuda:1 for the second; auto takes CUDA where the backend"
        " can use it, otherwise the CPU (default: auto)",
    )
    return parser


def check(options: argparse.Namespace) -> None:
    """Check which options were given together; with --server all positional ones are inputs.

    Raises:
        InputError: an input or the engine is missing, or an option that does nothing.
    """
    if options.server is None:
        _refuse(options, _OF_SERVICE, "is about a service", "add --server URL, or leave it out")
    else:
        _refuse(options, _OF_ENGINE, "is decided by the service", "leave it out")
        if options.engine_directory is not None:
            options.inputs = [options.engine_directory, *options.inputs]
            options.engine_directory = None
    if options.server is None and options.engine_directory is None:
        raise InputError("ENGINE_DIR", "is missing", "medfocus classify ENGINE_DIR INPUT")
    if bool(options.inputs) == (options.listed is not None):
        problem = "and --from are both given" if options.inputs else "is missing"
        raise InputError("INPUT", problem, "give files or folders, or --from FILE")


def _refuse(
    options: argparse.Namespace, defaults: Mapping[str, object], problem: str, hint: str
) -> None:
    for name, default in defaults.items():
        if getattr(options, name) != default:
            option = "--" + name.replace("_", "-")
            raise InputError(option, problem, hint, code="input.mismatch")

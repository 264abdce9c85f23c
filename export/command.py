"""`medfocus export`: models and classes to an engine directory, built and checked.

Exit codes: 0 success; 2 wrong usage; 3 too far from the float32 model: nothing written, or with
--verify an engine to be exported again; 4 input or output error; 130 interrupted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from medfocus.command_line import command_parser, noting, run
from medfocus.engine.artifact.directory import read_engine_directory
from medfocus.engine.backends.registry import load_backend
from medfocus.errors import MedfocusError
from medfocus.exit_codes import MEANINGS, ExitCode
from medfocus.export.options import add_options
from medfocus.export.summary import summary
from medfocus.export.verify import verify


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command, as `medfocus.command_line.run` does."""
    return run("export", parser(), _run, argv, prog)


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
medfocus export --inspect engines/mine                      describe an engine
medfocus export --verify engines/mine                       check its answers on this machine
""",
        {ExitCode.REFUSED: MEANINGS[ExitCode.REFUSED]},
    )
    add_options(parser)
    return parser


def _run(options: argparse.Namespace, console: Console) -> int:
    if options.inspect is not None:
        _inspect(options.inspect)
    elif options.verify is not None:
        verify(options.verify, Console(highlight=False))
    else:
        with noting("nothing was written", KeyboardInterrupt):
            _export(options, console)
    return ExitCode.OK


def _export(options: argparse.Namespace, console: Console) -> None:
    from medfocus.export import run as run_module  # needs torch; nothing else here does

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

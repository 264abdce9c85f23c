"""The subcommands of `medfocus`, as a table; their modules are imported when they run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        module: has `main(argv, prog)` and `parser()`.
        summary: one line for `medfocus --help`.
        extra: what to install for it, as in `pip install 'medfocus[extra]'`; "" if nothing more.
    """

    module: str
    summary: str
    extra: str = ""


COMMANDS = {
    "export": Command(
        "medfocus.export.command", "build and check an engine directory from models", "export"
    ),
    "classify": Command("medfocus.classify.command", "classify images with an engine"),
    "bench": Command(
        "medfocus.benchmarks.bench.command",
        "measure speed, accuracy and memory on this machine",
        "export,fewshot",
    ),
    "fit": Command(
        "medfocus.fewshot.fit_command", "adapt to a task with few labelled images", "fewshot"
    ),
    "eval": Command("medfocus.fewshot.eval_command", "evaluate an adapted head", "fewshot"),
    "serve": Command("medfocus.serving.command", "serve engines over HTTP", "serve"),
    "completion": Command("medfocus.completion", "print a shell's completion script"),
}

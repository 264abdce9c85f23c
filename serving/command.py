"""`medfocus serve`: engines over HTTP."""

import argparse
import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from medfocus.command_line import command_parser, run, whole_number
from medfocus.errors import InputError
from medfocus.exit_codes import ExitCode
from medfocus.serving.config import ServeConfig, checked, read_config
from medfocus.serving.engines import EngineRegistry, loaded
from medfocus.serving.monitoring.access_log import log_to_stdout
from medfocus.serving.monitoring.error_log import log_errors_to_stderr
from medfocus.serving.security.tokens import read_tokens
from medfocus.serving.state import Service


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command, as `medfocus.command_line.run` does."""
    return run("serve", parser(), _serve, argv, prog)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser(
        "serve",
        "Serve engine directories over HTTP, until interrupted.",
        """
medfocus serve engines/demo
medfocus serve engines/brain engines/lung --port 8080
medfocus serve --config serve.toml
""",
    )
    add = parser.add_argument
    add(
        "engines",
        metavar="ENGINE_DIR",
        nargs="*",
        type=Path,
        help="engine directories, served by their folders' names (or name them in --config)",
    )
    add("--config", metavar="FILE", type=Path, help="read the settings from this TOML file")
    add("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    add(
        "--port",
        type=whole_number(0, 65535),
        help="port to listen on, 0 for a free one (default: 8000)",
    )
    add(
        "--grpc-port",
        metavar="PORT",
        type=whole_number(0, 65535),
        help="port to listen on for gRPC, 0 for a free one (default: no gRPC)",
    )
    return parser


def config_of(options: argparse.Namespace) -> ServeConfig:
    """The configuration of a command line.

    Raises:
        InputError: no engine, two of one name, or see `read_config`.
    """
    if options.config is not None and options.engines:
        hint = "name the engines in the file"
        raise InputError("ENGINE_DIR", "cannot be combined with --config", hint)
    if options.config is not None:
        config = read_config(options.config)
    else:
        folders = [path.resolve() for path in options.engines]
        engines = {folder.name.lower(): {"path": folder} for folder in folders}
        if not engines:
            hint = "medfocus serve ENGINE_DIR"
            raise InputError("ENGINE_DIR", "is missing", hint)
        if len(engines) < len(folders):
            hint = "give them names in a file, with --config"
            raise InputError("ENGINE_DIR", "are two of one name", hint)
        config = checked({"engines": engines}, Path(), "ENGINE_DIR")
    given = {name: getattr(options, name) for name in ("host", "port", "grpc_port")}
    return config.model_copy(update={k: v for k, v in given.items() if v is not None})


def service(config: ServeConfig) -> Service:
    """The service of a configuration, without engines yet.

    Raises:
        InputError: it would be open to other machines without tokens (`serve.open`).
        FileError: the token file cannot be used.
    """
    file = config.security.token_file
    if file is None and not config.loopback and not config.security.open:
        raise InputError(
            f"host {config.host}",
            "would let every machine that reaches it use the service",
            "name a token file in the configuration, or set security.open = true",
            code="serve.open",
        )
    tokens = None if file is None else read_tokens(file)
    return Service(
        config,
        EngineRegistry(config.limits.queue, partial(loaded, frames=config.limits.frames)),
        tokens,
    )


def _serve(options: argparse.Namespace, console: Console) -> int:
    from medfocus.serving.server import listening, serve

    config = config_of(options)
    made = service(config)
    with listening(config) as accepting:
        log_to_stdout()
        log_errors_to_stderr()
        if not options.quiet:  # engines that are loaded, replaced and unloaded
            logging.getLogger("medfocus.serving").setLevel(logging.INFO)
        host, port = accepting.getsockname()[:2]
        scheme = "http" if config.security.certificate is None else "https"
        address = f"[{host}]" if ":" in host else host
        console.print(f"listening on {scheme}://{address}:{port}; try requests at /docs")
        asyncio.run(serve(made, accepting, partial(config_of, options)))
    return ExitCode.OK

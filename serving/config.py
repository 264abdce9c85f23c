"""What the service runs, where it listens, and its limits: a TOML file, or the command line."""

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medfocus.errors import FileError, InputError
from medfocus.files.file_errors import reason

# In addresses and in metrics' labels, so nothing that needs quoting.
EngineName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
MEBIBYTE = 2**20
MOST_JSON_BYTES = 32 * MEBIBYTE  # of a body, whose numbers take many times the memory


class _Strict(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineSettings(_Strict):
    """An engine to serve; the fields are `Engine.load`'s arguments.

    Attributes:
        path: the engine directory.
        backend, device, max_batch, max_wait_ms, deterministic, memory_limit: see `Engine.load`.
    """

    path: Path
    backend: str = "auto"
    device: str = "auto"
    max_batch: int | None = Field(default=None, ge=1)
    max_wait_ms: float = Field(default=0.0, ge=0)
    deterministic: bool = False
    memory_limit: int | None = Field(default=None, ge=1)


class Limits(_Strict):
    """What one client may take.

    Attributes:
        body_bytes: of one request, and of all its files together.
        images: files in one request.
        frames: images in one file.
        queue: images of all clients that an engine holds; more are refused with 429.
        seconds: for which a request is worked on, if it does not ask for less.
        idle_seconds: for a request's headers to arrive, and for which a client may send nothing of
            its body or read nothing of an answer.
        drain_seconds: for which accepted requests may go on after SIGTERM.
    """

    body_bytes: int = Field(default=256 * MEBIBYTE, ge=1)
    images: int = Field(default=256, ge=1)
    frames: int = Field(default=1024, ge=1)
    queue: int = Field(default=1024, ge=1)
    seconds: float = Field(default=60.0, gt=0)
    idle_seconds: float = Field(default=20.0, gt=0)
    drain_seconds: float = Field(default=30.0, gt=0)


class Security(_Strict):
    """Who may do what.

    Attributes:
        token_file: bearer tokens and their roles, see `tokens.read_tokens`.
        certificate, key: PEM files; with them the service speaks TLS.
        open: serve without tokens beyond this machine. Without it that is refused.
    """

    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    open: bool = False


class ServeConfig(_Strict):
    """Everything about one service.

    Attributes:
        engines: by name.
        dicomweb_engine: which of them answers DICOMweb; needed only if there are several.
        host, port: where it listens; port 0 is a free one.
        grpc_port: where it listens for gRPC; None for not at all.
        limits, security: see there.
    """

    engines: dict[EngineName, EngineSettings]
    dicomweb_engine: EngineName | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    grpc_port: int | None = Field(default=None, ge=0, le=65535)
    limits: Limits = Limits()
    security: Security = Security()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_config(path: Path) -> ServeConfig:
    """Read a TOML file. Paths in it are relative to its folder.

    Raises:
        FileError: it cannot be read.
        InputError: it is not TOML, a key is unknown or missing, or a value is out of its range
            (`serve.config`).
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        problem, hint = f"cannot be read ({reason(error)})", "check its path and its permissions"
        raise FileError(str(path), problem, hint) from error
    except ValueError as error:  # of TOML and of UTF-8
        raise _refused(f"{path}: the file", f"is not TOML ({error})") from error
    return checked(values, path.parent, str(path))


def checked(values: dict[str, Any], folder: Path, item: str) -> ServeConfig:
    """A configuration from plain values.

    Args:
        values: as TOML has them.
        folder: that relative paths start from.
        item: what the values are, in errors.

    Raises:
        InputError: see `read_config`.
    """
    try:
        config = ServeConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise _refused(f"{item}: {place or 'the file'}", f"is wrong: {first['msg']}") from None
    if (config.security.certificate is None) != (config.security.key is None):
        raise _refused(f"{item}: security", "has a certificate or a key, but not both")
    if config.dicomweb_engine not in (None, *config.engines):
        raise _refused(f"{item}: dicomweb_engine", "is none of the engines")
    engines = {
        name: engine.model_copy(update={"path": folder / engine.path})
        for name, engine in config.engines.items()
    }
    security = config.security.model_copy(
        update={
            name: folder / value
            for name in ("token_file", "certificate", "key")
            if (value := getattr(config.security, name)) is not None
        }
    )
    return config.model_copy(update={"engines": engines, "security": security})


def _refused(item: str, problem: str) -> InputError:
    return InputError(item, problem, "see docs/serving.md for every key", code="serve.config")

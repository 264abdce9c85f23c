"""SIGHUP: the service follows its configuration and its engine directories, without a restart."""

import logging

from medfocus.engine.artifact.manifest import FILE_NAME, from_json
from medfocus.errors import MedfocusError
from medfocus.serving.config import EngineSettings, ServeConfig
from medfocus.serving.engines import EngineState, version_of
from medfocus.serving.security.tokens import read_tokens
from medfocus.serving.state import Service

log = logging.getLogger(__name__)


def reload(service: Service, config: ServeConfig) -> None:
    """Take up tokens, and engines that were added, changed, replaced on disk or removed.

    An engine that cannot be loaded is logged, and its former version goes on. The address, the
    limits and the certificate stay what they were. Blocks until the former versions have answered.

    Args:
        service: that runs.
        config: as it is now.

    Raises:
        FileError, InputError: the token file cannot be used; nothing has changed.
    """
    if service.tokens is not None and config.security.token_file is not None:
        service.tokens = read_tokens(config.security.token_file)
    for state in service.engines.states():
        if state.name not in config.engines:
            service.engines.unload(state.name)
    former = service.config.engines
    taken_up = {"engines": config.engines, "dicomweb_engine": config.dicomweb_engine}
    service.config = service.config.model_copy(update=taken_up)
    states = {state.name: state for state in service.engines.states()}
    for name, settings in config.engines.items():
        try:
            if former.get(name) != settings or _is_outdated(states.get(name), settings):
                service.engines.load(name, settings)
        except (MedfocusError, OSError) as error:
            log.error("engine %s: is not reloaded: %s", name, error)
        except Exception as error:  # its text may be about anything
            log.error("engine %s: is not reloaded: %s", name, type(error).__name__)


def _is_outdated(state: EngineState | None, settings: EngineSettings) -> bool:
    if state is not None and state.state == "loading":
        return False
    on_disk = version_of(from_json((settings.path / FILE_NAME).read_bytes()))
    return state is None or state.version != on_disk

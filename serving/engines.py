"""The engines that are served, by name: loaded, replaced and unloaded while requests go on."""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeGuard

from medfocus.engine import Engine
from medfocus.engine.artifact.manifest import Manifest, to_json
from medfocus.engine.runtime.metrics import Span
from medfocus.errors import InputError, MedfocusError
from medfocus.serving.config import EngineSettings
from medfocus.serving.errors import BusyError, RequestError

log = logging.getLogger(__name__)

Observe = Callable[[str, Sequence[Span]], object]
State = Literal["loading", "ready", "failed"]
RETRY_SECONDS = 1  # what a client is told that finds the queue full


@dataclass(eq=False)
class ServedEngine:
    """One version of an engine, and how many images it has been given.

    Attributes:
        name: of the engine.
        engine: what answers.
        version: 16 hexadecimal digits of its manifest's SHA-256, which covers all its files.
        held: images that were accepted and not yet answered.
    """

    name: str
    engine: Engine
    version: str
    held: int = 0


@dataclass(frozen=True)
class EngineState:
    """What is known of an engine.

    Attributes:
        name: of the engine.
        state: `ready`, also while its next version is loaded; `failed` if it could not be loaded,
            or if its backend has failed.
        version, backend, device: of the one that answers; "" without one.
        held: images under way.
        error: why its last loading failed, or its backend; "" if neither did.
    """

    name: str
    state: State
    version: str = ""
    backend: str = ""
    device: str = ""
    held: int = 0
    error: str = ""


@dataclass(eq=False)
class _Slot:
    settings: EngineSettings
    current: ServedEngine | None = None
    loading: bool = False
    error: str = ""
    broken: bool = False  # its backend failed, and none was loaded since
    lock: threading.Lock = field(default_factory=threading.Lock)  # one loading at a time


class EngineRegistry:
    """Engines by name; safe to share between threads.

    Args:
        queue: images that each engine may hold.
        load: makes an engine.

    An engine whose backend fails is loaded again by itself, once: the load checks an answer, so
    what comes back works, and what does not come back would not at a second attempt either. Then
    the process must be replaced (see `lost`), or an administrator loads it.

    Attributes:
        queue: see above.
        observe: called with an engine's name and the spans of its work, if it was set before.
    """

    def __init__(self, queue: int, load: Callable[[EngineSettings], Engine]) -> None:
        self.queue, self._load = queue, load
        self.observe: Observe | None = None
        self._slots: dict[str, _Slot] = {}
        self._changed = threading.Condition()
        self._closing = False

    def load(self, name: str, settings: EngineSettings | None = None) -> ServedEngine:
        """Load an engine, or its next version: only once it is ready, requests go to it.

        The former version answers what it has accepted, and is then closed. Blocks meanwhile.

        Args:
            name: of the engine.
            settings: None for those it was last loaded with.

        Raises:
            InputError: no settings, and no engine of this name (`serve.unknown_engine`).
            MedfocusError: see `Engine.load`; the former version goes on.
        """
        with self._changed:
            slot = self._slots.get(name)
            if slot is None:
                if settings is None:
                    raise self._unknown(name)
                slot = self._slots[name] = _Slot(settings)
        with slot.lock:
            if self._slots.get(name) is not slot:  # unloaded while this waited
                raise self._unknown(name)
            wanted = settings or slot.settings
            slot.loading = True
            try:
                self._drop_broken(slot)  # first, for its memory
                engine = self._load(wanted)
            except Exception as error:
                known = isinstance(error, MedfocusError)
                slot.error = str(error) if known else f"an error of type {type(error).__name__}"
                raise
            finally:
                slot.loading = False
            if self.observe is not None:
                engine.observe(partial(self.observe, name))
            served = ServedEngine(name, engine, version_of(engine.manifest))
            with self._changed:
                former, slot.current, slot.settings, slot.error = slot.current, served, wanted, ""
                slot.broken = False
            log.info("engine %s: version %s answers", name, served.version)
        self._retire(former)
        return served

    def unload(self, name: str) -> None:
        """Give up an engine, once it has answered what it has accepted. Blocks meanwhile.

        Raises:
            InputError: there is none of this name (`serve.unknown_engine`).
        """
        with self._changed:
            slot = self._slots.pop(name, None)
        if slot is None:
            raise self._unknown(name)
        with slot.lock:  # one that is being loaded is unloaded too
            self._retire(slot.current)

    @contextmanager
    def admitted(self, name: str, images: int) -> Iterator[ServedEngine]:
        """The engine that answers, for the time of one request.

        Raises:
            InputError: there is none of this name, or it is not ready (`serve.unknown_engine`,
                `serve.not_ready`).
            BusyError: with these images its queue would be too long.
        """
        with self._changed:
            served = self._ready(name)
            if served.held and served.held + images > self.queue:
                raise BusyError(
                    f"engine {name}",
                    f"holds {served.held} images of at most {self.queue}",
                    f"send the request again in {RETRY_SECONDS} s",
                )
            served.held += images
        try:
            yield served
        finally:
            with self._changed:
                served.held -= images
                self._changed.notify_all()
            if served.engine.failure is not None:
                self._load_again(served)

    @property
    def lost(self) -> bool:
        """Whether an engine's backend failed, and could not be loaded again by this process."""
        with self._changed:
            return any(
                slot.broken and slot.error and not slot.loading for slot in self._slots.values()
            )

    def current(self, name: str) -> ServedEngine:
        """The engine that answers, as it is now.

        Raises:
            InputError: there is none of this name, or it is not ready (`serve.unknown_engine`,
                `serve.not_ready`).
        """
        with self._changed:
            return self._ready(name)

    def serves(self, name: str | None) -> bool:
        """Whether there is an engine of this name, ready or not."""
        return name in self._slots

    def states(self) -> list[EngineState]:
        """What is known of each engine, by name."""
        with self._changed:
            slots = sorted(self._slots.items())
        return [_state(name, slot) for name, slot in slots]

    def ready(self) -> list[ServedEngine]:
        """The engines that answer."""
        with self._changed:
            return [slot.current for slot in self._slots.values() if _answers(slot.current)]

    def close(self) -> None:
        """Unload all, for good."""
        self._closing = True
        for name in list(self._slots):
            self.unload(name)

    def _ready(self, name: str) -> ServedEngine:
        slot = self._slots.get(name)
        if slot is None:
            raise self._unknown(name)
        if not _answers(slot.current):
            hint = "wait until /readyz answers 200, or see the service's log"
            raise InputError(f"engine {name}", "is not ready", hint, code="serve.not_ready")
        return slot.current

    def _load_again(self, served: ServedEngine) -> None:
        """Load an engine whose backend has failed, in a thread, if that was not begun yet."""
        with self._changed:
            slot = self._slots.get(served.name)
            if slot is None or slot.current is not served or slot.broken:
                return
            slot.broken, slot.error = True, ""
        log.error("engine %s: its backend failed; it is loaded again", served.name)

        def load() -> None:
            try:
                self.load(served.name)
            except Exception:
                log.error("engine %s: cannot be loaded again: %s", served.name, slot.error)

        threading.Thread(target=load, name="medfocus-load").start()

    def _drop_broken(self, slot: _Slot) -> None:
        with self._changed:
            if slot.current is None or slot.current.engine.failure is None:
                return
            served, slot.current, slot.broken = slot.current, None, True
        self._retire(served)

    def _retire(self, served: ServedEngine | None) -> None:
        if served is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: not served.held)
        served.engine.close()
        log.info("engine %s: version %s is closed", served.name, served.version)

    def _unknown(self, name: str) -> InputError:
        if self._closing:
            hint = "send it again, to another service or later"
            return RequestError("service", "is stopping", hint, code="serve.stopping")
        known = ", ".join(sorted(self._slots)) or "none is loaded"
        hint = f"use one of: {known}"
        return InputError(f"engine {name}", "is not served", hint, code="serve.unknown_engine")


def version_of(manifest: Manifest) -> str:
    """See `ServedEngine.version`."""
    return hashlib.sha256(to_json(manifest).encode()).hexdigest()[:16]


def _answers(served: ServedEngine | None) -> TypeGuard[ServedEngine]:
    return served is not None and served.engine.failure is None


def _state(name: str, slot: _Slot) -> EngineState:
    served = slot.current
    if not _answers(served):
        error = slot.error or ("its backend failed" if slot.broken or served else "")
        return EngineState(name, "failed" if error and not slot.loading else "loading", error=error)
    engine = served.engine
    return EngineState(
        name, "ready", served.version, engine.backend, engine.device, served.held, slot.error
    )


def loaded(settings: EngineSettings, frames: int) -> Engine:
    """An engine that reads at most `frames` images of a file; see `Engine.load`."""
    return Engine.load(
        settings.path,
        settings.backend,
        settings.device,
        max_batch=settings.max_batch,
        max_wait_ms=settings.max_wait_ms,
        deterministic=settings.deterministic,
        memory_limit=settings.memory_limit,
        max_frames=frames,
    )

"""Metrics of the engines: their state when Prometheus asks, and the stages of their work."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from medfocus.engine.runtime.metrics import Span
from medfocus.serving.engines import EngineRegistry

# Seconds: from a stage of one small image on a GPU to a full queue on a busy CPU.
STAGE_BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # of batches


class StageMetrics:
    """Counts all engines' work as it finishes; an engine's next version counts on.

    Args:
        registry: of the exposition.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        by_stage = ("engine", "stage")
        self._work = Histogram(
            "medfocus_stage_seconds", "Seconds of work in each stage; batches in the two models.",
            by_stage, buckets=STAGE_BUCKETS, registry=registry,
        )  # fmt: skip
        self._images = Counter(
            "medfocus_stage_images", "Images that went through each stage.", by_stage,
            registry=registry,
        )  # fmt: skip
        self._waited = Counter(
            "medfocus_stage_waited_seconds", "Seconds for which work had to wait.", by_stage,
            registry=registry,
        )  # fmt: skip
        self._queued = Histogram(
            "medfocus_queue_seconds", "Seconds from when an image was read to its batch's begin.",
            ("engine",), buckets=STAGE_BUCKETS, registry=registry,
        )  # fmt: skip
        self._batches = Histogram(
            "medfocus_batch_images", "Images in each batch.", ("engine",), buckets=SIZES,
            registry=registry,
        )  # fmt: skip

    def add(self, engine: str, spans: Sequence[Span]) -> None:
        """Count finished work of an engine; called in its pipeline's threads."""
        for stage in {span.stage for span in spans}:
            done = [span for span in spans if span.stage == stage]
            work = self._work.labels(engine, stage)
            for span in done:
                work.observe(span.ended - span.begun)
            self._images.labels(engine, stage).inc(sum(span.images for span in done))
            self._waited.labels(engine, stage).inc(max(0.0, sum(span.waited for span in done)))
            if stage == "prepare":
                queued = self._queued.labels(engine)
                for span in done:
                    queued.observe(span.queued)
            elif stage == "segment":
                self._batches.labels(engine).observe(done[0].images)


class EngineCollector(Collector):
    """Asks each engine for its present state and load."""

    def __init__(self, engines: EngineRegistry) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        """One family of metrics after another."""
        ready = GaugeMetricFamily(
            "medfocus_engine_ready", "1 if the engine answers, else 0.", labels=("engine",)
        )
        held = GaugeMetricFamily(
            "medfocus_queue_images", "Images accepted and not yet answered.", labels=("engine",)
        )
        limit = GaugeMetricFamily(
            "medfocus_queue_limit_images", "Images that it may hold; more are refused.",
            labels=("engine",),
        )  # fmt: skip
        versions = InfoMetricFamily(
            "medfocus_engine", "What answers: its version, backend and device.", labels=("engine",)
        )
        for state in self._engines.states():
            ready.add_metric((state.name,), state.state == "ready")
            held.add_metric((state.name,), state.held)
            limit.add_metric((state.name,), self._engines.queue)
            if state.state == "ready":
                names = ("version", "backend", "device")
                versions.add_metric((state.name,), {n: getattr(state, n) for n in names})
        memory = GaugeMetricFamily(
            "medfocus_engine_bytes", "Memory of buffers and of decoded images.",
            labels=("engine", "of"),
        )  # fmt: skip
        devices = set()
        for served in self._engines.ready():
            stats = served.engine.stats()
            memory.add_metric((served.name, "buffers"), stats.buffer_bytes)
            memory.add_metric((served.name, "images"), stats.waiting_bytes)
            devices.add(served.engine.device)
        yield from (ready, held, limit, versions, memory)
        yield from _gpu_memory(devices)


def _gpu_memory(devices: set[str]) -> Iterator[Metric]:
    """Of each GPU in use, by all processes; where PyTorch is the backend, which knows it."""
    torch: Any = sys.modules.get("torch")
    gpus = sorted(device for device in devices if device.startswith("cuda"))
    if torch is None or not gpus:
        return
    used = GaugeMetricFamily("medfocus_gpu_used_bytes", "Memory in use.", labels=("device",))
    size = GaugeMetricFamily("medfocus_gpu_size_bytes", "Memory there is.", labels=("device",))
    for device in gpus:
        try:
            free, total = torch.cuda.mem_get_info(device)
        except RuntimeError:  # it is lost
            continue
        used.add_metric((device,), total - free)
        size.add_metric((device,), total)
    yield from (used, size)

"""Metrics in Prometheus' format: requests as they end, and what each engine counts by itself."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import medfocus
from medfocus.serving.engines import EngineRegistry

# Seconds: from one small image on a GPU to many on a busy CPU.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """What is counted while requests are answered.

    Args:
        engines: what is served.

    Attributes:
        registry: of everything, for an exposition.
    """

    def __init__(self, engines: EngineRegistry) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # resident memory, descriptors, processor time
        Info("medfocus", "The service's version.", registry=self.registry).info(
            {"version": medfocus.__version__}
        )
        self.registry.register(EngineCollector(engines))
        self._requests = Counter(
            "medfocus_requests", "Requests, by route and status.", ("route", "status"),
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "medfocus_request_seconds", "Seconds from a request's first byte to its answer.",
            ("route",), buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._images = Counter(
            "medfocus_images", "Images answered, by engine and error code; ok without an error.",
            ("engine", "code"), registry=self.registry,
        )  # fmt: skip

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def image(self, engine: str, code: str) -> None:
        """Count an image that was answered."""
        self._images.labels(engine, code or "ok").inc()


class EngineCollector(Collector):
    """Reads each engine's own counts when Prometheus asks.

    Counts are of an engine's present version: they begin again with the next one, as those of a
    process do when it is restarted.
    """

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
        yield from (ready, held, limit, versions)
        by_stage = ("engine", "stage")
        stages = SummaryMetricFamily(
            "medfocus_stage_seconds", "Seconds of work in each stage; batches in the two models.",
            labels=by_stage,
        )  # fmt: skip
        images = CounterMetricFamily(
            "medfocus_stage_images", "Images that went through each stage.", labels=by_stage
        )
        waited = CounterMetricFamily(
            "medfocus_stage_waited_seconds", "Seconds for which work had to wait.", labels=by_stage
        )
        memory = GaugeMetricFamily(
            "medfocus_engine_bytes", "Memory of buffers and of decoded images.",
            labels=("engine", "of"),
        )  # fmt: skip
        for served in self._engines.ready():
            stats = served.engine.stats()
            for stage, totals in stats.stages.items():
                labels = (served.name, stage)
                stages.add_metric(labels, totals.runs, totals.seconds)
                images.add_metric(labels, totals.images)
                waited.add_metric(labels, totals.waited)
            memory.add_metric((served.name, "buffers"), stats.buffer_bytes)
            memory.add_metric((served.name, "images"), stats.waiting_bytes)
        yield from (stages, images, waited, memory)

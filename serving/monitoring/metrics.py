"""Metrics in Prometheus' format: of requests as they end, and of the engines."""

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector

import medfocus
from medfocus.serving.engines import EngineRegistry
from medfocus.serving.monitoring.engine_metrics import EngineCollector, StageMetrics

# Seconds: from one small image on a GPU to many on a busy CPU.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """What is counted while requests are answered.

    Args:
        engines: what is served.

    Attributes:
        engines: see above.
        registry: of everything, for an exposition.
    """

    def __init__(self, engines: EngineRegistry) -> None:
        self.engines, self.registry = engines, CollectorRegistry()
        ProcessCollector(registry=self.registry)  # resident memory, descriptors, processor time
        Info("medfocus", "The service's version.", registry=self.registry).info(
            {"version": medfocus.__version__}
        )
        self.registry.register(EngineCollector(engines))
        engines.observe = StageMetrics(self.registry).add
        self._requests = Counter(
            "medfocus_requests", "Requests, by route and status.", ("route", "status"),
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "medfocus_request_seconds", "Seconds from a request's first byte to its answer.",
            ("route",), buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._errors = Counter(
            "medfocus_request_errors", "Requests answered with an error, by route and code.",
            ("route", "code"), registry=self.registry,
        )  # fmt: skip
        self._images = Counter(
            "medfocus_images", "Images answered, by engine and error code; ok without an error.",
            ("engine", "code"), registry=self.registry,
        )  # fmt: skip

    def request(self, route: str, status: int, seconds: float, code: str) -> None:
        """Count a request that has ended, with an error's code or ""."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if code:
            self._errors.labels(route, code).inc()

    def image(self, engine: str, code: str) -> None:
        """Count an image that was answered."""
        self._images.labels(engine, code or "ok").inc()

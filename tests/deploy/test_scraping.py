"""A real Prometheus scrapes a real service as deploy/ says, and answers the dashboard."""

import math
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.checkout import ROOT
from tests.deploy.monitoring import (
    DASHBOARD,
    MISSING,
    RULES,
    annotations,
    metrics_in,
    queries,
)
from tests.serving.api.test_classify import ADDRESS, png
from tests.serving.conftest import Serve
from tests.serving.monitoring.test_operations import samples
from tests.waiting import wait_until

# There is none here: tests/serving/monitoring has a stand-in for it.
ON_A_GPU = {"medfocus_gpu_used_bytes", "medfocus_gpu_size_bytes"}


def work(client: httpx.Client) -> None:
    """A request of which one image is answered and another is not; and a bad one."""
    files = [("files", (name, data)) for name, data in (("a", png(1)), ("b", b"none"))]
    assert client.post(ADDRESS, files=files).status_code == 200
    assert client.post("/v1/engines/none/classify", files=files).status_code == 404


def test_the_service_has_every_metric_that_is_asked_for(serve: Serve) -> None:
    client = serve()
    work(client)
    exposed = {name for name, *_ in samples(client.get("/metrics").text)}
    asked = [*queries().values(), *annotations(), *(rule["expr"] for rule in RULES)]
    named = set().union(*map(metrics_in, asked))
    assert len(named) >= 15
    assert named - exposed == ON_A_GPU
    variables = [
        v["query"]["query"] for v in DASHBOARD["templating"]["list"] if "label_values" in str(v)
    ]
    assert set().union(*map(metrics_in, variables)) <= exposed


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[httpx.Client]:
    """Prometheus with deploy/'s configuration, but for the target and how often it looks."""
    config = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(ROOT / "deploy/alerts.yml", folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("w"),
    )
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1", timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def values(client: httpx.Client, expression: str) -> list[float]:
    try:
        response = client.get("/query", params={"query": expression})
    except httpx.TransportError:  # it does not listen yet
        return []
    if response.status_code == 503:  # it is starting
        return []
    answer = response.json()
    assert answer["status"] == "success", answer
    return [float(series["value"][1]) for series in answer["data"]["result"]]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason="needs prometheus (Debian package)")
def test_prometheus_answers_every_panel(serve: Serve, tmp_path: Path) -> None:
    client = serve()
    with prometheus(tmp_path, client.base_url.netloc.decode()) as asked:
        unanswered = {
            panel: expression
            for panel, expression in queries().items()
            if not metrics_in(expression) & ON_A_GPU
        }

        def answered() -> bool:
            work(client)  # rates need requests between two scrapes
            for panel, expression in list(unanswered.items()):
                found = values(asked, expression)
                if found and all(map(math.isfinite, found)):
                    del unanswered[panel]
            return not unanswered

        wait_until(answered)

        def evaluated() -> list[dict[str, str]]:
            groups = asked.get("/rules").json()["data"]["groups"]
            return [rule for group in groups for rule in group["rules"]]

        wait_until(lambda: all(rule["health"] != "unknown" for rule in evaluated()))
        assert {rule["health"] for rule in evaluated()} == {"ok"}
        assert len(evaluated()) == len(RULES)
        assert {rule.get("state") for rule in evaluated()} <= {None, "inactive"}
        wait_until(lambda: sum(values(asked, "job:medfocus_requests:rate5m")) > 0)

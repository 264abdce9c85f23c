"""Prometheus' own tools on its configuration, the rules and the dashboard's expressions."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from medfocus.serving.app import application
from medfocus.serving.command import service
from medfocus.serving.config import ServeConfig, checked
from medfocus.serving.open_inference.grpc_methods import METHODS, SERVICE
from tests.checkout import ROOT
from tests.deploy.monitoring import MISSING, RULES, annotations, promtool, queries

DEPLOY = ROOT / "deploy"
UNIT_TESTS = Path(__file__).parent / "alerts_test.yml"

needs_prometheus = pytest.mark.skipif(bool(MISSING), reason="needs prometheus (Debian package)")


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@needs_prometheus
def test_its_configuration_is_valid(tmp_path: Path) -> None:
    promtool("check", "config", DEPLOY / "prometheus.yml")
    within_cluster = read("prometheus-kubernetes.yml")
    (job,) = within_cluster["scrape_configs"]
    # Debian's Prometheus is built without it: all else is checked.
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    (tmp_path / "alerts.yml").write_text((DEPLOY / "alerts.yml").read_text())
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(within_cluster))
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_it_scrapes_the_port_that_is_served_as_the_job_that_rules_name() -> None:
    (job,) = read("prometheus.yml")["scrape_configs"]
    default = ServeConfig(engines={})
    assert job["static_configs"] == [{"targets": [f"{default.host}:{default.port}"]}]
    assert job.get("metrics_path", "/metrics") == "/metrics"
    (other,) = read("prometheus-kubernetes.yml")["scrape_configs"]
    named = {name for rule in RULES for name in re.findall(r'\bjob="(\w+)"', rule["expr"])}
    assert {job["job_name"]} == {other["job_name"]} == named


@needs_prometheus
def test_each_alert_fires_when_it_should() -> None:
    promtool("test", "rules", UNIT_TESTS)
    tested = set(re.findall(r'alertname(?:: |=")(\w+)', UNIT_TESTS.read_text()))
    assert tested == {rule["alert"] for rule in RULES if "alert" in rule}


@needs_prometheus
def test_the_dashboards_expressions_are_promql(tmp_path: Path) -> None:
    expressions = [*queries().values(), *annotations()]
    rules = [{"record": f"panel:{i}", "expr": expr} for i, expr in enumerate(expressions)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_rules_and_dashboard_follow_the_requests_that_classify() -> None:
    local = checked({"engines": {"tiny": {"path": "tiny"}}}, Path(), "test")
    paths = application(service(local)).openapi()["paths"]
    others = ("/load", "/unload", "/index")
    wanted = {path for path in paths if "post" in paths[path] and not path.endswith(others)}
    assert len(wanted) >= 4
    wanted.add(f"{SERVICE}/ModelInfer")
    asked = [*queries().values(), *(rule["expr"] for rule in RULES)]
    (pattern,) = {text for expr in asked for text in re.findall(r'route=~"([^"]*)"', expr)}
    assert {path for path in paths.keys() | METHODS.keys() if re.fullmatch(pattern, path)} == wanted


def test_the_memory_alert_comes_before_the_limits() -> None:
    (rule,) = [rule for rule in RULES if rule.get("alert") == "MedfocusMemoryHigh"]
    gibibytes = int(re.findall(r"> (\d+) \* 1024 \^ 3", rule["expr"])[0])
    unit = re.findall(r"(?m)^MemoryMax=(\d+)G$", (DEPLOY / "medfocus.service").read_text())
    pod = re.findall(r"limits: \{memory: (\d+)Gi\}", (DEPLOY / "kubernetes.yaml").read_text())
    assert unit == pod == [str(gibibytes * 4 // 3)]

"""deploy/kubernetes.yaml: by Kubernetes' own schemas, and compared with what the program does."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import medfocus
from medfocus.serving.app import application
from medfocus.serving.command import config_of, parser, service
from medfocus.serving.config import ServeConfig, checked, read_config
from tests.checkout import ROOT

LABEL = "app.kubernetes.io/name"
DOCUMENTS = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text()))
BY_KIND: dict[str, Any] = {each["kind"]: each for each in DOCUMENTS}
POD = BY_KIND["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
MOUNTS = {mount["name"]: mount for mount in CONTAINER["volumeMounts"]}
VOLUMES = {volume["name"]: volume for volume in POD["volumes"]}


@pytest.fixture
def config(tmp_path: Path) -> ServeConfig:
    file = tmp_path / "serve.toml"
    file.write_text(BY_KIND["ConfigMap"]["data"][file.name])
    return read_config(file)


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("document", DOCUMENTS, ids=list(BY_KIND))
def test_it_follows_the_schema(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_all_documents_are_of_the_same_pods() -> None:
    assert len(BY_KIND) == len(DOCUMENTS)
    assert {each["metadata"]["name"] for each in DOCUMENTS} == {"medfocus"}
    labels = {LABEL: "medfocus"}
    assert all(each["metadata"]["labels"] == labels for each in DOCUMENTS)
    deployment = BY_KIND["Deployment"]["spec"]
    (constraint,) = POD["topologySpreadConstraints"]
    selecting = [
        deployment["selector"]["matchLabels"],
        deployment["template"]["metadata"]["labels"],
        BY_KIND["Service"]["spec"]["selector"],
        BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        constraint["labelSelector"]["matchLabels"],
    ]
    assert selecting == [labels] * len(selecting)
    target = BY_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "medfocus")


def test_the_service_finds_its_files(config: ServeConfig) -> None:
    options = parser().parse_args(CONTAINER["args"][1:])
    assert CONTAINER["args"][0] == "serve"
    folder = Path(MOUNTS["config"]["mountPath"])
    assert options.config == folder / "serve.toml"
    assert not options.engines
    assert VOLUMES["config"]["configMap"]["name"] == BY_KIND["ConfigMap"]["metadata"]["name"]
    for engine in config.engines.values():
        assert engine.path.is_relative_to(MOUNTS["engines"]["mountPath"])
    assert config.security.token_file is not None
    assert config.security.token_file.parent == Path(MOUNTS["tokens"]["mountPath"])
    assert VOLUMES["tokens"]["secret"]["defaultMode"] & 0o007 == 0
    assert POD["securityContext"]["fsGroup"] == POD["securityContext"]["runAsGroup"]
    assert MOUNTS["uploads"]["mountPath"] == "/tmp"
    assert all(MOUNTS[name]["readOnly"] for name in MOUNTS.keys() - {"uploads"})


def test_ports_and_probes_are_the_services(config: ServeConfig) -> None:
    assert not config.loopback
    ports = {"http": config.port, "grpc": config.grpc_port}
    assert {each["name"]: each["containerPort"] for each in CONTAINER["ports"]} == ports
    reached = BY_KIND["Service"]["spec"]["ports"]
    assert {each["targetPort"]: each["port"] for each in reached} == ports
    policy = BY_KIND["NetworkPolicy"]["spec"]
    (rule,) = policy["ingress"]
    assert {each["port"] for each in rule["ports"]} == set(ports.values())
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])
    local = {"engines": {"tiny": {"path": "tiny"}}}
    routes = application(service(checked(local, Path(), "test"))).openapi()["paths"]
    probes = {
        kind: CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")
    }
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/readyz",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["path"] for probe in probes.values()} <= routes.keys()
    assert {probe["port"] for probe in probes.values()} == {"http"}


def test_accepted_requests_have_time_to_be_answered(config: ServeConfig) -> None:
    command, seconds = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    most = int(seconds) + config.limits.drain_seconds
    assert POD["terminationGracePeriodSeconds"] > most


def test_the_image_is_that_of_the_containerfile() -> None:
    name, _, version = CONTAINER["image"].partition(":")
    assert (name, version) == ("medfocus", medfocus.__version__)
    text = (ROOT / "Containerfile").read_text()
    context = POD["securityContext"]
    assert re.findall(r"(?m)^USER (.*)$", text) == [
        f"{context['runAsUser']}:{context['runAsGroup']}"
    ]
    exposed = re.findall(r"(?m)^EXPOSE (.*)$", text)
    assert exposed == [" ".join(str(each["containerPort"]) for each in CONTAINER["ports"])]
    assert re.findall(r'(?m)^ENTRYPOINT \["(.*)"\]$', text) == [config_of.__module__.split(".")[0]]


def test_replicas_follow_the_queue_by_the_adapters_metric() -> None:
    (metric,) = BY_KIND["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    (rule,) = yaml.safe_load((ROOT / "deploy/prometheus-adapter.yaml").read_text())["rules"]
    assert rule["seriesQuery"].partition("{")[0] == name
    (job,) = yaml.safe_load((ROOT / "deploy/prometheus-kubernetes.yml").read_text())[
        "scrape_configs"
    ]
    set_by_scrape = {each.get("target_label") for each in job["relabel_configs"]}
    assert rule["resources"]["overrides"].keys() <= set_by_scrape
    label = re.sub(r"\W", "_", LABEL)
    kept = job["relabel_configs"][0]
    assert kept["source_labels"] == [
        f"__meta_kubernetes_pod_label_{label}",
        "__meta_kubernetes_pod_container_port_name",
    ]
    assert kept["regex"] == f"medfocus;{CONTAINER['ports'][0]['name']}"

"""What deploy/ asks Prometheus: the dashboard's and the rules' expressions."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.checkout import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$engine": ".*"}


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def queries() -> dict[str, str]:
    """Each panel's expressions, by its title and their letters."""
    return {
        f"{panel['title']} {target['refId']}": filled(target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    }


def annotations() -> list[str]:
    return [filled(each["expr"]) for each in DASHBOARD["annotations"]["list"]]


def metrics_in(expression: str) -> set[str]:
    """The metrics that an expression names; no labels, functions and recorded series."""
    bare = re.sub(r"\{[^}]*\}|\b(?:by|on|group_left)\s*\([^)]*\)|\"[^\"]*\"", "", expression)
    return set(re.findall(r"(?<![\w:])(?:medfocus|process)_\w+(?![\w:])", bare))


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


MISSING = [name for name in ("promtool", "prometheus") if shutil.which(name) is None]

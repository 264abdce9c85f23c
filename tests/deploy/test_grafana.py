"""deploy/grafana.json: by Grafana's own schema, and readable."""

import json
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deploy.monitoring import DASHBOARD

PANELS = DASHBOARD["panels"]


def lost(given: Any, kept: Any, place: str = "") -> list[str]:
    """The places of what is not in both."""
    if isinstance(given, dict) and isinstance(kept, dict):
        missing = [f"{place}.{key}" for key in given.keys() - kept.keys()]
        both = given.keys() & kept.keys()
        return missing + [x for key in both for x in lost(given[key], kept[key], f"{place}.{key}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = enumerate(zip(given, kept, strict=True))
        return [x for i, (one, two) in pairs for x in lost(one, two, f"{place}[{i}]")]
    return [] if given == kept else [place]


def test_grafanas_schema_knows_every_key() -> None:
    """Its models, generated from the schema, keep what they know."""
    plugins.register_default_plugins()
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert lost(DASHBOARD, kept) == []


def test_panels_lie_side_by_side() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
    for one, two in combinations((panel["gridPos"] for panel in PANELS), 2):
        beside = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        below = one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
        assert beside or below


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    if panel["type"] != "row":
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["expr"] for target in panel["targets"])

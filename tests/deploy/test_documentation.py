"""docs/deployment.md names what there is."""

import re

from tests.checkout import ROOT


def test_each_file_is_named() -> None:
    text = (ROOT / "docs/deployment.md").read_text()
    files = {f"deploy/{path.name}" for path in (ROOT / "deploy").iterdir()}
    assert set(re.findall(r"deploy/[\w.-]*\w", text)) == files

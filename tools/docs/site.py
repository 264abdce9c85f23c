"""A hook of mkdocs: puts what `--help` prints in place of `<!-- help: medfocus classify -->`."""

import os
import re
import subprocess
import sys
from typing import Any

HELP = re.compile(r"<!-- help: medfocus(.*?) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of every page."""
    return HELP.sub(_help, markdown)


def _help(match: re.Match[str]) -> str:
    command = [sys.executable, "-m", "medfocus", *match[1].split(), "--help"]
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "HOME": "/home/you"}
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return f"```text\n{found.stdout.strip()}\n```"

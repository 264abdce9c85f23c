"""pip-audit asks a service of this machine, which speaks the protocol of osv.dev."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.checkout import ROOT
from tools.audit import PINNED, VULNERABLE

Audit = Callable[[set[str]], "subprocess.CompletedProcess[str]"]


def entry(name: str) -> dict[str, object]:
    """https://ossf.github.io/osv-schema"""
    fixed = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9999.0"}]}]
    affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": fixed}]
    return {"id": f"PYSEC-2019-{len(name)}", "summary": "text", "affected": affected}


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[Audit]:
    """A function from the vulnerable packages to what the audit said."""
    with ExitStack() as stack:

        def run(vulnerable: set[str]) -> "subprocess.CompletedProcess[str]":
            class Handler(BaseHTTPRequestHandler):
                def do_POST(self) -> None:
                    asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                    name = asked["package"]["name"]
                    found = f"{name}=={asked['version']}" in vulnerable
                    answer = {"vulns": [entry(name)]} if found else {}
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(json.dumps(answer).encode())

                def log_message(self, *_: object) -> None:
                    pass

            server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            stack.callback(server.server_close)
            threading.Thread(target=server.serve_forever).start()
            stack.callback(server.shutdown)
            return subprocess.run(
                [sys.executable, "-m", "tools.audit"],
                cwd=ROOT,
                env=os.environ
                | {
                    "PIP_AUDIT_VULNERABILITY_SERVICE": "osv",
                    "PIP_AUDIT_OSV_URL": f"http://127.0.0.1:{server.server_port}",
                    "XDG_CACHE_HOME": str(tmp_path),
                },
                capture_output=True,
                text=True,
            )

        yield run


def pinned(name: str) -> str:
    lines = PINNED.read_text().splitlines()
    (found,) = [line for line in lines if line.startswith(f"{name}==")]
    return found


@pytest.mark.parametrize("found", [set(), {"pillow"}])
def test_it_fails_for_what_is_pinned_and_vulnerable(audit: Audit, found: set[str]) -> None:
    done = audit({VULNERABLE, *map(pinned, found)})
    assert done.returncode == len(found)
    assert {line.partition(" ")[0] for line in done.stderr.splitlines()} == found
    assert not done.stdout.startswith("NOT AUDITED")


def test_it_says_where_the_service_knows_nothing(audit: Audit) -> None:
    done = audit({pinned("pillow")})
    assert (done.returncode, done.stdout[:11]) == (0, "NOT AUDITED")

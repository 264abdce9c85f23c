"""deploy/medfocus.service: what systemd says of it, and whether the service can live within it."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from medfocus.serving.config import Limits, read_config
from tests.checkout import ROOT
from tests.test_nothing_phones_home import SERVED, ct

UNIT = ROOT / "deploy/medfocus.service"

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)"
)


def values(key: str) -> list[str]:
    """All values of a key, which may be there several times."""
    pairs = (line.partition("=") for line in UNIT.read_text().splitlines())
    return [value for name, _, value in pairs if name == key]


def value(key: str) -> str:
    (found,) = values(key)
    return found


def analyze(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_systemd_finds_no_mistake_in_it(tmp_path: Path) -> None:
    program = tmp_path / "medfocus"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(value("ExecStart").split()[0], str(program)))
    analyze("verify", "--man=no", str(unit))


def test_systemd_finds_it_well_confined() -> None:
    analyze("security", "--offline=true", "--threshold=20", str(UNIT))  # of 100; 0 is the best


def test_it_stops_and_reloads_as_the_service_does() -> None:
    config = read_config(ROOT / "deploy/serve.toml")
    assert config.limits == Limits()
    assert int(value("TimeoutStopSec")) > config.limits.drain_seconds
    assert (value("KillSignal"), value("KillMode")) == ("SIGTERM", "mixed")
    assert value("ExecReload").split()[1] == "-HUP"
    name, _, source = value("LoadCredential").partition(":")
    assert config.security.token_file == Path("/run/credentials", UNIT.name, name)
    assert Path(source).parent == Path(value("ExecStart").split()[-1]).parent


@cache
def calls_of(group: str) -> frozenset[str]:
    """The system calls of a group like @system-service."""
    listed = [line.strip() for line in analyze("syscall-filter", group).splitlines()[1:]]
    names = [line for line in listed if line and not line.startswith("#")]
    return frozenset().union(*(calls_of(n) if n.startswith("@") else {n} for n in names))


@pytest.mark.long
def test_the_service_needs_no_call_that_is_refused(exported_engine: Path, tmp_path: Path) -> None:
    """strace refuses them as SystemCallFilter would, also to the processes that read files."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    allowed = frozenset[str]()
    for each in values("SystemCallFilter"):
        group = calls_of(each.removeprefix("~"))
        allowed = allowed - group if each.startswith("~") else allowed | group
    assert {"openat", "accept4"} <= allowed
    assert {"chown", "ptrace", "mount"}.isdisjoint(allowed)
    refused = ",".join(f"?{name}" for name in sorted(calls_of("@known") - allowed))
    trace = ["-e", f"trace={refused},socket", "-e", f"inject={refused}:error=EPERM"]
    log = tmp_path / "log"
    served = ["-c", SERVED, str(exported_engine), ct(), exported_engine.name.lower()]
    command = ["strace", "-f", "-qq", "--seccomp-bpf", *trace, "-o", str(log), sys.executable]
    done = subprocess.run(
        [*command, *served],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    sockets = [line.partition("socket(")[2] for line in log.read_text().splitlines()]
    families = {each.partition(",")[0] for each in sockets if each}
    assert families
    assert families <= set(value("RestrictAddressFamilies").split())

"""Looks the pinned packages up among known vulnerabilities: `python -m tools.audit`.

Where the service that knows them cannot be reached, or is a mirror that does not know them, it says
so, and nothing is looked up. That is known by asking first for a package that has some.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PINNED = Path(__file__).parents[1] / "constraints.txt"
VULNERABLE = "jinja2==2.10"  # CVE-2019-10906


def main() -> int:
    """0 if no pinned package has a known vulnerability, or none could be looked up; else 1."""
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder, "known.txt")
        known.write_text(VULNERABLE)
        if not vulnerable(known):
            print(
                f"NOT AUDITED: no service of vulnerabilities answers here ({VULNERABLE} has some)"
            )
            return 0
    found = vulnerable(PINNED)
    if found is None:
        print("the service of vulnerabilities no longer answers", file=sys.stderr)
        return 1
    for each in found:
        print(each, file=sys.stderr)
    print(f"{PINNED.name}: {len(found)} known vulnerabilities")
    return 1 if found else 0


def vulnerable(requirements: Path) -> list[str] | None:
    """Each known vulnerability of a file of pinned packages; None if they cannot be looked up."""
    options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    command = [sys.executable, "-m", "pip_audit", *options, "--requirement", str(requirements)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:  # it ended with an error
        return None
    return [
        f"{package['name']} {package['version']}: {hole['id']},"
        f" fixed in {', '.join(hole['fix_versions']) or 'no version'}"
        for package in packages
        for hole in package.get("vulns", ())
    ]


if __name__ == "__main__":
    sys.exit(main())

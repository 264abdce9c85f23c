"""How much disk an installation takes: into a fresh environment, with this checkout's own code.

python -m medfocus.benchmarks.install_size CHECKOUT 'medfocus[cpu]' 'medfocus onnxruntime'
    -o benchmarks/results/cpu/install.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    """Install, measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.install_size")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("requirements", nargs="+", help="each an installation of its own")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    rows = [measure(options.checkout, requirement) for requirement in options.requirements]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows))


def measure(checkout: Path, requirement: str) -> dict[str, Any]:
    """Install `requirement`, `medfocus` in it meaning the checkout; MB (10⁶ bytes) of packages."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
        (packages,) = Path(place, "lib").glob("python*/site-packages")
        wanted = [
            str(checkout.resolve()) + name.removeprefix("medfocus")
            if name.startswith("medfocus")
            else name
            for name in requirement.split()
        ]
        constraints = ["--constraint", str(checkout / "constraints.txt")]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "--python",
                place,
                "install",
                "-q",
                *constraints,
                *wanted,
            ],
            check=True,
        )
        files = [path for path in packages.rglob("*") if path.is_file() and not path.is_symlink()]
        names = sorted(path.name.partition("-")[0] for path in packages.glob("*.dist-info"))
        return {
            "requirement": requirement,
            "megabytes": round(sum(path.stat().st_size for path in files) / 1e6),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "packages": names,
        }


if __name__ == "__main__":
    main()

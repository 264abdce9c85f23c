"""Maps the top-level folders to `medfocus.<folder>`; all other metadata is in pyproject.toml.

A top-level package called `kernels` or `engine` would collide in site-packages, so the folders
are installed below one package. `package/` holds that package's own few files; `tools/` is for a
checkout alone and is not installed.
"""

from setuptools import find_packages, setup

FOLDERS = ("kernels", "models", "phantoms", "engine", "export", "fewshot", "serving", "benchmarks")
# Of benchmarks/, an installation holds what `medfocus-bench` and `make gpu-check` run.
CHECKOUT_ONLY = ("benchmarks.suites", "benchmarks.experiments", "benchmarks.serving")

setup(
    package_dir={"medfocus": "package", **{f"medfocus.{folder}": folder for folder in FOLDERS}},
    packages=["medfocus", "medfocus.classify", "medfocus.files"]
    + [
        f"medfocus.{package}"
        for package in find_packages(
            ".", exclude=CHECKOUT_ONLY, include=[*FOLDERS, *(f"{f}.*" for f in FOLDERS)]
        )
    ],
)

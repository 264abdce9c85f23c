"""The user's home and cache folder, and what is done where there is none."""

import os
from pathlib import Path

# Variables by which packages are told where their caches are.
_CACHES = {
    "CUDA_CACHE_PATH": "cuda",
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
}


def cache_folder() -> Path:
    """`medfocus` in the user's cache folder; what is in it can be made again.

    `$XDG_CACHE_HOME`, by default `~/.cache`; a relative path is ignored, as the XDG Base Directory
    Specification 0.8 says.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "medfocus"


def replace_missing_home() -> None:
    """Set HOME if it is unset or relative and the user has no entry in the system's list of users.

    Packages that are loaded later would fail when they are imported, or write into a folder `~` in
    the current one. In `/dev/null` no user can write: writing there fails as in a home folder that
    is not writable.
    """
    if not Path(os.path.expanduser("~")).is_absolute():  # noqa: PTH111  # Path's raises
        os.environ["HOME"] = os.devnull


def keep_caches_together() -> None:
    """Have the packages that a command loads keep their caches in medfocus's, unless told where.

    Where that cannot be written, a temporary folder takes its place until the process ends. Only
    for processes of medfocus's own: an application has its own folders.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        writable = False
    else:
        writable = os.access(folder, os.W_OK)
    if not writable:
        import atexit  # here, since this module is imported with medfocus
        import shutil
        import tempfile

        try:
            folder = Path(tempfile.mkdtemp(prefix="medfocus-"))
        except OSError:
            return  # a machine where nothing can be written still runs what needs no cache
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for variable, name in _CACHES.items():
        os.environ.setdefault(variable, str(folder / name))

"""Weight files: read without executing anything in them, and loaded strictly by name and shape."""

import hashlib
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medfocus.errors import WeightsError
from medfocus.files.file_errors import reason

LFS_POINTER = b"version https://git-lfs.github.com"

# The exceptions of torch.load and zipfile on damaged files.
_DAMAGE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)

# hub id @ commit : file
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40}):(?P<file>[\w./-]+)")

# Buffers that older versions of transformers saved, and newer ones compute.
CLIP_BUFFERS = ("text.transformer.embeddings.position_ids",)

# The parts of a SAM2 checkpoint for video: memory, object pointers. The image path has none.
SAM2_VIDEO_ONLY = (
    "memory_attention.",
    "memory_encoder.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "mask_downsample.",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)


def resolve(source: str | Path) -> Path:
    """The path of a weight file; a hub id is downloaded to the hub's local cache.

    Args:
        source: a path, or `owner/name@<40-digit commit>:<file>`. The commit pins the content.

    Raises:
        WeightsError: there is no such file, or the hub id has no commit (`weights.missing`); the
            hub cannot be reached (`weights.not_downloaded`).
    """
    path = Path(source)
    if path.is_file():
        return path
    match = HUB_ID.fullmatch(str(source))
    if match is None:
        raise WeightsError(
            str(source),
            "no such file, and no hub id of the form owner/name@<40-digit commit>:<file>",
            "give the path of a .safetensors or .pt file, or the full hub id",
            code="weights.missing",
        )
    try:
        return Path(hf_hub_download(match["repo"], match["file"], revision=match["revision"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise WeightsError(
            str(source),
            f"cannot be downloaded ({type(error).__name__})",
            "download the file on a machine with a network and give its path",
            code="weights.not_downloaded",
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or a PyTorch checkpoint, by name, on the CPU.

    Checkpoints are read with `weights_only`: nothing in them is executed. The wrappers of training
    scripts (`state_dict`, `model`, a `module.` prefix) are removed.

    Raises:
        WeightsError: the file cannot be opened (`weights.missing`), is a Git LFS pointer
            (`weights.lfs_pointer`), is a TorchScript archive (`weights.unsafe`), is damaged or
            contains Python objects (`weights.unreadable`), or contains no state dict
            (`weights.no_state_dict`).
    """
    with _opened(path) as file:
        head = file.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise WeightsError(
            str(path),
            "a Git LFS pointer, not the weights",
            "git lfs pull",
            code="weights.lfs_pointer",
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(
                str(path),
                f"no safetensors file ({error})",
                "download the file again",
                code="weights.unreadable",
            ) from error
    return _unwrap(_read_checkpoint(path), path)


def _opened(path: Path):  # type: ignore[no-untyped-def]
    try:
        return path.open("rb")
    except OSError as error:
        raise WeightsError(
            str(path),
            f"cannot be read ({reason(error)})",
            "check the path and its permissions",
            code="weights.missing",
        ) from error


def _read_checkpoint(path: Path) -> object:
    try:
        if _is_torchscript(path):
            raise WeightsError(
                str(path),
                "a TorchScript archive, which contains code",
                "give a state dict",
                code="weights.unsafe",
            )
        with warnings.catch_warnings():
            # On an unusual pickle, which is refused below.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise WeightsError(
            str(path),
            "no checkpoint with only tensors: it is damaged, or it contains Python objects,"
            " which are never loaded",
            "save it again as .safetensors",
            code="weights.unreadable",
        ) from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            str(path),
            "contains no state dict",
            "save model.state_dict()",
            code="weights.no_state_dict",
        )
    state = {str(name).removeprefix("module."): value for name, value in content.items()}
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise WeightsError(
            str(path),
            f"{wrong[0]!r} is not a tensor",
            "save model.state_dict()",
            code="weights.no_state_dict",
        )
    return state


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], source: str, ignore: tuple[str, ...] = ()
) -> None:
    """Copy tensors into a module, after checking every name and shape.

    Args:
        module: receives the weights, in its own dtypes.
        state: tensors by the module's parameter names.
        source: the item of errors.
        ignore: prefixes of names that may exist and are not used.

    Raises:
        WeightsError: names are missing or unexpected (`weights.mismatch`), or a shape differs
            (`weights.shape_mismatch`); the first are named. The module is unchanged then.
    """
    used = {name: value for name, value in state.items() if not name.startswith(ignore or ("\0",))}
    expected = module.state_dict()
    missing = [name for name in expected if name not in used]
    unexpected = [name for name in used if name not in expected]
    if missing or unexpected:
        raise WeightsError(
            source,
            f"does not fit {type(module).__name__}: {len(missing)} missing"
            f" (first: {missing[0] if missing else 'none'}), {len(unexpected)} unexpected"
            f" (first: {unexpected[0] if unexpected else 'none'})",
            "choose the architecture of the file",
            code="weights.mismatch",
        )
    for name, value in used.items():
        if value.shape != expected[name].shape:
            raise WeightsError(
                source,
                f"{name} has shape {tuple(value.shape)}, not {tuple(expected[name].shape)}",
                "choose the architecture of the file",
                code="weights.shape_mismatch",
            )
    module.load_state_dict(used)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

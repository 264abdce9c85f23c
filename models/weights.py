"""Weight files: read without running anything they contain, and fitted strictly."""

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

LFS_POINTER = b"version https://git-lfs.github.com"

# What torch.load and zipfile raise on damaged files.
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

# Buffers that transformers once saved and now computes.
CLIP_BUFFERS = ("text.transformer.embeddings.position_ids",)

# What a SAM2 checkpoint holds for video: memory, object pointers. The image path has none of it.
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
    """A weight file's path: a file as it is, a hub id through the hub's local cache.

    Args:
        source: a path, or `owner/name@<40-digit commit>:<file>`. The commit pins what is loaded.

    Raises:
        WeightsError: no such file, a hub id without its commit, or a hub that cannot be reached.
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
        )
    try:
        return Path(hf_hub_download(match["repo"], match["file"], revision=match["revision"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise WeightsError(
            str(source),
            f"cannot be downloaded ({type(error).__name__})",
            "fetch the file on a machine with a network and give its path",
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or a PyTorch checkpoint, by name, on the CPU.

    Checkpoints are read with `weights_only`: nothing in them is executed. The wrappers that
    training scripts leave (`state_dict`, `model`, a `module.` prefix) are taken off.

    Raises:
        WeightsError: missing, a Git LFS pointer, not a weight file, or one that holds code.
    """
    with _opened(path) as file:
        head = file.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise WeightsError(str(path), "a Git LFS pointer, not the weights", "run `git lfs pull`")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(
                str(path), f"no safetensors file ({error})", "download the file again"
            ) from error
    return _unwrap(_read_checkpoint(path), path)


def _opened(path: Path):  # type: ignore[no-untyped-def]
    try:
        return path.open("rb")
    except OSError as error:
        raise WeightsError(
            str(path), f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from error


def _read_checkpoint(path: Path) -> object:
    try:
        if _is_torchscript(path):
            raise WeightsError(
                str(path), "a TorchScript archive, which holds code", "use a state dict"
            )
        with warnings.catch_warnings():
            # On an unusual pickle, which is then refused in our own words.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise WeightsError(
            str(path),
            "no checkpoint of tensors alone: it is damaged, or it holds Python objects,"
            " which are never loaded",
            "save it again as .safetensors",
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
        raise WeightsError(str(path), "holds no state dict", "save model.state_dict()")
    state = {str(name).removeprefix("module."): value for name, value in content.items()}
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise WeightsError(str(path), f"{wrong[0]!r} is no tensor", "save model.state_dict()")
    return state


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], source: str, ignore: tuple[str, ...] = ()
) -> None:
    """Copy tensors into a module, every name and shape checked first.

    Args:
        module: gets the weights, in its own dtypes.
        state: tensors by the module's parameter names.
        source: named in errors.
        ignore: prefixes of names that may be there and are not used.

    Raises:
        WeightsError: missing or unexpected names, or a shape that differs; the first are named.
            The module is unchanged then.
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
            "choose the architecture that the file was trained with",
        )
    for name, value in used.items():
        if value.shape != expected[name].shape:
            raise WeightsError(
                source,
                f"{name} has shape {tuple(value.shape)}, not {tuple(expected[name].shape)}",
                "choose the architecture that the file was trained with",
            )
    module.load_state_dict(used)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

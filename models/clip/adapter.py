"""Changes that few-shot adaptation makes to CLIP's image encoder, as tensors by name.

`<parameter>.up` (out, r) and `<parameter>.down` (r, in) are a low-rank change of that matrix,
W + up · down (LoRA, arXiv 2106.09685, its scale multiplied into `up`); `prompts` (L, n, W) are deep
visual prompts; `<parameter>` replaces the whole tensor.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medfocus.errors import WeightsError
from medfocus.models.clip.encoder import FocusCLIP

PROMPTS = "prompts"


@torch.no_grad()
def apply_adapter(clip: FocusCLIP, adapter: Mapping[str, Tensor]) -> None:
    """Apply an adapter to an image encoder, in place.

    Raises:
        WeightsError: the encoder has no such parameter, or one of another shape
            (`weights.mismatch`). The encoder is unchanged then.
    """
    parameters = dict(clip.named_parameters())
    changed: dict[str, Tensor] = {}
    for name, tensor in adapter.items():
        target, _, half = name.rpartition(".")
        if name == PROMPTS:
            changed[name] = tensor
            fits = tensor.ndim == 3 and tensor.shape[::2] == (clip.layers, clip.width)
        elif half in ("up", "down"):
            factors = adapter.get(f"{target}.up"), adapter.get(f"{target}.down")
            fits = target in parameters and _is_low_rank(*factors, parameters[target].shape)
            if fits and half == "up":
                change = tensor.float() @ adapter[f"{target}.down"].float()
                changed[target] = parameters[target] + change.to(parameters[target])
        else:
            changed[name] = tensor
            fits = name in parameters and tensor.shape == parameters[name].shape
        if not fits:
            raise WeightsError(
                f"adapter {name}",
                f"of shape {tuple(tensor.shape)} does not fit this image encoder",
                "use the CLIP for which it was made",
                code="weights.mismatch",
            )
    for name, tensor in changed.items():
        if name == PROMPTS:
            clip.prompts = nn.Parameter(tensor.clone())
        else:
            parameters[name].copy_(tensor)


def _is_low_rank(up: Tensor | None, down: Tensor | None, shape: torch.Size) -> bool:
    if up is None or down is None or up.ndim != 2 or down.ndim != 2:
        return False
    return up.shape[1] == down.shape[0] and (up.shape[0], down.shape[1]) == tuple(shape)

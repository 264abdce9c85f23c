"""What both pre-trainings share: the optimiser, its schedule, the averaged weights, the log."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

WARM_UP = 200  # steps
AVERAGING = 0.995  # decay of the exponential moving average that is shipped


class Training:
    """AdamW with a linear warm-up and a cosine decay, and a moving average of the weights.

    Args:
        model: what is trained.
        steps: how many optimiser steps there will be.
        learning_rate: its peak.
        out: the folder that gets the weights and the log.
        name: `<name>.safetensors` and `<name>.json` are written there.
    """

    def __init__(
        self, model: nn.Module, steps: int, learning_rate: float, out: Path, name: str
    ) -> None:
        self.model, self.steps = model, steps
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
        out.mkdir(parents=True, exist_ok=True)
        self.weights, self.log = out / f"{name}.safetensors", out / f"{name}.json"
        self.curve: list[dict[str, Any]] = []

    def _rate(self, step: int) -> float:
        if step < WARM_UP:
            return (step + 1) / WARM_UP
        return 0.5 + 0.5 * math.cos(math.pi * (step - WARM_UP) / max(self.steps - WARM_UP, 1))

    def __iter__(self) -> Iterator[int]:
        """The steps, with a progress bar."""
        yield from track(range(self.steps), self.weights.stem)

    def update(self, loss: torch.Tensor) -> None:
        """One optimiser step down this loss."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.averaged.update_parameters(self.model)

    def record(self, settings: dict[str, Any], **figures: float) -> None:
        """Write the averaged weights in float16, and the curve so far beside the settings."""
        self.curve.append({name: round(value, 4) for name, value in figures.items()})
        state = self.averaged.module.state_dict()
        save_file({key: value.half().contiguous() for key, value in state.items()}, self.weights)
        text = json.dumps({"settings": settings, "curve": self.curve}, indent=1)
        self.log.write_text(text + "\n")
        print(self.curve[-1], flush=True)

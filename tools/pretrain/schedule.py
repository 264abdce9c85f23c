"""The training loop of both models: optimiser, schedule, weight averaging and log."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import save
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medfocus.files.atomic_write import atomic_write

WARM_UP = 200  # steps
AVERAGING = 0.995  # decay of the exponential moving average of the weights, which is shipped


class Training:
    """AdamW with linear warm-up and cosine decay, and a moving average of the weights.

    Args:
        model: the model to train.
        steps: total number of optimiser steps.
        learning_rate: the peak learning rate.
        out: the folder for the weights and the log.
        name: of the files, `<name>.safetensors` and `<name>.json`.
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
        """Take one optimiser step on this loss."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.averaged.update_parameters(self.model)

    def record(self, settings: dict[str, Any], **figures: float) -> None:
        """Write the averaged weights in float16, and the log with settings and curve so far."""
        self.curve.append({name: round(value, 4) for name, value in figures.items()})
        state = self.averaged.module.state_dict()
        half = {key: value.half().contiguous() for key, value in state.items()}
        atomic_write(self.weights, save(half))
        log = json.dumps({"settings": settings, "curve": self.curve}, indent=1)
        atomic_write(self.log, log + "\n")
        print(self.curve[-1], flush=True)

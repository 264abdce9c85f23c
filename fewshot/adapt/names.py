"""The adaptations by name, and their default length: for command lines, without torch."""

from typing import Literal

Adaptation = Literal["zero-shot", "probe", "tip", "vpt", "lora", "full"]

STEPS = 32  # optimiser steps of vpt, lora and full: 512 images

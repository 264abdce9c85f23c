"""How fast a backend was on the machine of the export."""

import math
from dataclasses import dataclass

from medfocus.settings import Device, require


@dataclass(frozen=True)
class Speed:
    """What `auto` ranks backends by, on a processor of the same name.

    Attributes:
        seconds_per_image: both graphs, with the copies to the device and back; the median of some
            batches: on a GPU of the largest batch size, on a CPU of one image.
        device: where it was measured, `cpu` or `cuda`.
        processor: the name of the CPU or GPU.
    """

    seconds_per_image: float
    device: Device
    processor: str

    def __post_init__(self) -> None:
        usable = math.isfinite(self.seconds_per_image) and self.seconds_per_image > 0
        require(usable, "seconds_per_image", "is not a finite number above 0")

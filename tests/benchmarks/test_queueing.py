"""The simulated stream where the answer is known, and rules that hold for all."""

from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfocus.benchmarks import queueing as module
from medfocus.benchmarks.queueing import Place, StageTimes, images_per_second

FREE = 1e-9


def times(
    read: float = FREE, prepare: float = FREE, segment: float = FREE, classify: float = FREE
) -> StageTimes:
    return StageTimes([read], [prepare], [segment], [classify])


def test_the_device_is_the_bottleneck() -> None:
    found = images_per_second(times(segment=0.02, classify=0.005), Place(2), 6400)
    assert found == pytest.approx(40, rel=1e-3)


def test_streams_of_their_own_overlap() -> None:
    """The slower model alone counts, once the first batch is through."""
    place = Place(2, slots=3, max_batch=8, shared=False)
    found = images_per_second(times(segment=0.02, classify=0.005), place, 8000)
    assert found == pytest.approx(50, rel=0.002)


def test_readers_are_the_bottleneck() -> None:
    found = images_per_second(times(read=0.03, prepare=0.01, segment=0.001), Place(4), 8000)
    assert found == pytest.approx(100, rel=0.02)
    slower = Place(4, slower_read=0.06)
    found = images_per_second(times(read=0.03, prepare=0.01, segment=0.001), slower, 8000)
    assert found == pytest.approx(40, rel=0.02)


def test_more_readers_than_are_read_ahead_gain_nothing() -> None:
    ahead = module.READ_AHEAD + 1
    found = images_per_second(times(read=0.1), Place(10 * ahead), 5000)
    assert found == pytest.approx(ahead / 0.1, rel=0.02)


def test_only_what_was_read_waits_for_room() -> None:
    """Room for three images that are read does not keep more from being read."""
    found = images_per_second(times(read=0.1), Place(20, slots=1, max_batch=1), 5000)
    assert found == pytest.approx((module.READ_AHEAD + 1) / 0.1, rel=0.02)


class Scripted(list[float]):
    """Times that are drawn in their order, over and over."""

    def __init__(self, script: list[float]) -> None:
        super().__init__(script)
        self.script = cycle(script)

    def __getitem__(self, index: object) -> float:  # type: ignore[override]
        return next(self.script)


def test_what_is_read_sooner_waits_for_what_comes_before_it() -> None:
    """Of nine at once one takes a second, and the next begins when that one is there."""
    reads = Scripted([1.0, *[0.001] * module.READ_AHEAD])
    work = StageTimes(reads, [FREE], [FREE], [FREE])
    assert images_per_second(work, Place(50), 9000) == pytest.approx(9, rel=0.01)


def test_devices_share_the_work_until_the_readers_are_the_limit() -> None:
    work = times(read=0.005, segment=0.02)
    rates = [images_per_second(work, Place(1, devices=number), 20_000) for number in (1, 2, 3, 8)]
    assert rates[:3] == pytest.approx([50, 100, 150], rel=0.02)
    assert rates[3] == pytest.approx(200, rel=0.02)


def test_one_slot_leaves_nothing_to_overlap() -> None:
    """A batch is prepared while the device idles; with two slots that is hidden."""
    work = times(prepare=0.01, segment=0.02)
    assert images_per_second(work, Place(1, slots=1, max_batch=8), 8000) == pytest.approx(
        1 / 0.03, rel=0.01
    )
    assert images_per_second(work, Place(1, slots=2, max_batch=8), 8000) == pytest.approx(
        1 / 0.02, rel=0.01
    )


def test_a_single_image_passes_through_all_stages() -> None:
    found = images_per_second(times(0.1, 0.2, 0.3, 0.4), Place(1), 1)
    assert found == pytest.approx(1)


@given(
    images=st.integers(1, 200),
    hosts=st.integers(1, 5),
    devices=st.integers(1, 3),
    slots=st.integers(1, 3),
    max_batch=st.integers(1, 40),
    shared=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_no_schedule_beats_its_bottleneck_and_all_are_answered(
    images: int, hosts: int, devices: int, slots: int, max_batch: int, shared: bool, seed: int
) -> None:
    drawn = StageTimes([0.01, 0.05], [0.01, 0.02], [0.02, 0.03], [0.001, 0.01])
    place = Place(hosts, devices, slots, max_batch, shared)
    seconds = images / images_per_second(drawn, place, images, seed)
    device = 0.021 if shared else 0.02  # at least, an image
    assert seconds >= images * 0.02 / hosts * (1 - 1e-9)
    assert seconds >= images * device / devices * (1 - 1e-9)
    # At most everything one after the other.
    assert seconds <= images * (0.05 + 0.02 + 0.03 + 0.01) * (1 + 1e-9)

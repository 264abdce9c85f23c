"""The held-out part: stratified and split by group."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medfocus.fewshot.data.splitting.groups import components
from medfocus.fewshot.data.splitting.held_out import held_out
from tests.fewshot.data.splitting.pools import distinct, fake


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([None, *"pqrstu"]), st.integers(0, 30)),
        min_size=1,
        max_size=40,
    )
)
def test_linked_items_stay_together(rows: list[tuple[int, str | None, int]]) -> None:
    """Compared with the transitive closure of "shares a group or a content", as a matrix."""
    dataset = fake([row[0] for row in rows], [row[1] for row in rows])
    hashes = [str(row[2]) for row in rows]
    linked = np.array(
        [[a[2] == b[2] or (a[1] is not None and a[1] == b[1]) for b in rows] for a in rows]
    )
    for _ in rows:
        linked = linked @ linked
    keys = [[("content", row[2]), *([("group", row[1])] if row[1] else [])] for row in rows]
    together = np.array(components(keys))
    np.testing.assert_array_equal(together[:, None] == together[None], linked)
    test = held_out(dataset, hashes)
    apart = {together[index] for index in range(len(rows)) if index not in test}
    assert apart.isdisjoint(together[np.array(test, dtype=int)])


@settings(deadline=None)
@given(st.lists(st.integers(5, 60), min_size=3, max_size=3))
def test_a_fifth_of_every_class_is_held_out(counts: list[int]) -> None:
    dataset = fake([label for label, count in enumerate(counts) for _ in range(count)])
    test = held_out(dataset, distinct(dataset))
    assert list(test) == sorted(set(test))
    held = Counter(dataset.items[index].label for index in test)
    for label, count in enumerate(counts):
        assert abs(held[label] - count / 5) <= 1


def test_few_large_groups() -> None:
    """Ten patients of different sizes, each with images of two classes."""
    sizes = [2, 3, 5, 8, 9, 4, 6, 7, 3, 5]
    labels = [label for size in sizes for label in [0] * size + [1] * (size + 1) + [2]]
    groups: list[str | None] = [
        f"patient {number}" for number, size in enumerate(sizes) for _ in range(2 * size + 2)
    ]
    dataset = fake(labels, groups)
    test = set(held_out(dataset, distinct(dataset)))
    held = {dataset.items[index].group for index in test}
    assert test == {index for index, item in enumerate(dataset.items) if item.group in held}
    for label in range(3):
        share = sum(labels[index] == label for index in test) / labels.count(label)
        assert 0.1 < share < 0.3


def test_few_patients_of_one_class_each() -> None:
    """Most folds lack a class; one with every class, in both parts, is chosen."""
    sizes = [3, 4, 1, 8, 1, 8, 8]
    labels = [patient % 3 for patient, size in enumerate(sizes) for _ in range(size)]
    groups: list[str | None] = [
        f"patient {patient}" for patient, size in enumerate(sizes) for _ in range(size)
    ]
    dataset = fake(labels, groups)
    held = Counter(labels[index] for index in held_out(dataset, distinct(dataset)))
    for label in range(3):
        assert 0 < held[label] < labels.count(label)

"""A class list sets the order of the classes, and must match them."""

from pathlib import Path

import pytest

from medfocus.errors import InputError
from medfocus.fewshot.data.class_list import with_classes
from medfocus.fewshot.data.dataset import Dataset, Item
from tests.errors import refuses

DATASET = Dataset(
    "set",
    Path(),
    ("a", "b", "c"),
    ("an a", "a b", "a c"),
    tuple(Item(Path(f"{place}.png"), place % 3) for place in range(6)),
)


def test_the_list_sets_the_order() -> None:
    turned = with_classes(DATASET, ("c", "a", "b"))
    assert turned.classes == ("c", "a", "b")
    assert turned.prompts == ("a c", "an a", "a b")
    for before, after in zip(DATASET.items, turned.items, strict=True):
        assert turned.classes[after.label] == DATASET.classes[before.label]
        assert after.path == before.path


@pytest.mark.parametrize(
    ("classes", "code", "item"),
    [
        (("a", "c"), "dataset.unknown_class", "1.png"),
        (("a", "b", "c", "d"), "dataset.missing_class", "class 'd'"),
    ],
)
def test_a_list_that_does_not_match(classes: tuple[str, ...], code: str, item: str) -> None:
    with refuses(InputError, code, item):
        with_classes(DATASET, classes)

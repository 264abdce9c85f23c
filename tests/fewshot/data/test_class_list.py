"""A list of classes decides their order, and refuses what is not in it."""

from pathlib import Path

import pytest

from medfocus.errors import InputError
from medfocus.fewshot.data.class_list import with_classes
from medfocus.fewshot.data.dataset import Dataset, Item

DATASET = Dataset(
    "set",
    Path(),
    ("a", "b", "c"),
    ("an a", "a b", "a c"),
    tuple(Item(Path(f"{place}.png"), place % 3) for place in range(6)),
)


def test_the_list_decides_the_order() -> None:
    turned = with_classes(DATASET, ("c", "a", "b"))
    assert turned.classes == ("c", "a", "b")
    assert turned.prompts == ("a c", "an a", "a b")
    for before, after in zip(DATASET.items, turned.items, strict=True):
        assert turned.classes[after.label] == DATASET.classes[before.label]
        assert after.path == before.path


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        (("a", "c"), r"1\.png: is labelled 'b', which is not in the class list"),
        (("a", "b", "c", "d"), "class 'd': has no file in set"),
    ],
)
def test_what_it_refuses(classes: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        with_classes(DATASET, classes)

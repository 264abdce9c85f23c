"""Files that cannot be read: all counted, some named, left out only on request."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from medfocus.engine.io.images import SourceImage
from medfocus.errors import ImageError
from medfocus.fewshot.data.dataset import Item
from medfocus.fewshot.data.images import (
    NAMED,
    content_hash,
    leave_out_unreadable,
    read_item,
    unreadable,
)
from tests.engine.io.read import read_images
from tests.errors import refuses
from tests.fewshot.data.files import dicom, png


def items_of(folder: Path) -> list[Item]:
    """A good one, not an image, DICOM without pixels, a mask of another size, a good one."""
    (folder / "text.png").write_text("no image")
    Image.new("L", (5, 5)).save(folder / "mask.png")
    return [
        Item(png(folder / "a.png"), 0),
        Item(folder / "text.png", 0),
        Item(dicom(folder / "b.dcm", "Doe^Jane"), 1),
        Item(png(folder / "c.png"), 1, masks=(folder / "mask.png",)),
        Item(png(folder / "thin.png"), 1),
    ]


def test_every_frame_has_the_union_of_the_masks(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 3), shade) for shade in (10, 20)]
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    masks = []
    for name, pixel in (("first.png", (0, 0)), ("second.png", (3, 2))):
        mask = Image.new("L", (4, 3))
        mask.putpixel(pixel, 255)
        mask.save(tmp_path / name)
        masks.append(tmp_path / name)
    expected = np.zeros((3, 4))
    expected[0, 0] = expected[2, 3] = 1
    images = read_item(Item(tmp_path / "two.tif", 0, masks=tuple(masks)))
    assert [image.pixels[0, 0, 0] for image, _ in images] == [10, 20]
    for _, lesion in images:
        np.testing.assert_array_equal(lesion, expected)


def test_files_left_out_are_named(tmp_path: Path) -> None:
    text = io.StringIO()
    items = items_of(tmp_path)

    def prepare(image: SourceImage) -> None:
        if image.source.endswith("thin.png"):
            raise ImageError(image.source, "is too thin", "cut it")

    kept = leave_out_unreadable(items, prepare, Console(file=text, width=300, soft_wrap=True))
    assert list(kept) == [items[0]]
    assert kept[items[0]] == (content_hash(read_images(items[0].path)[0]),)
    report = text.getvalue()
    for name in ("text.png", "b.dcm", "mask.png", "thin.png"):
        assert f"{tmp_path / name}: " in report
    assert "Doe" not in report


def test_no_readable_file_is_an_error(tmp_path: Path) -> None:
    with refuses(ImageError, "image.unreadable", "3 of 3 files") as caught:
        leave_out_unreadable(items_of(tmp_path)[1:4], repr, Console(file=io.StringIO()))
    assert "text.png" in caught.value.problem


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    Image.new("L", (2, 2), 1).save(tmp_path / "dark.png")
    Image.new("L", (5, 5)).save(tmp_path / "large.png")
    for name in ("dark.png", "large.png"):
        with refuses(ImageError, "image.invalid_mask", name):
            read_item(Item(png(tmp_path / "image.png"), 0, masks=(tmp_path / name,)))


def test_one_error_counts_all_and_names_the_first() -> None:
    errors = [
        ImageError(f"{place}.png", "is not an image", "replace it") for place in range(NAMED + 2)
    ]
    error = unreadable(errors, 40)
    assert error.item == f"{NAMED + 2} of 40 files"
    assert f"{NAMED - 1}.png (is not an image); 2 more" in error.problem
    assert f"{NAMED}.png" not in error.problem
    assert "--skip-bad" in error.hint

"""Files that cannot be read: all counted, some named, left out only when that is asked for."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from medfocus.engine.io.images import SourceImage
from medfocus.errors import ImageError
from medfocus.fewshot.data.dataset import Item
from medfocus.fewshot.data.images import NAMED, leave_out_unreadable, read_item, unreadable
from tests.fewshot.data.files import dicom, png


def items_of(folder: Path) -> list[Item]:
    """A good one, no image, DICOM without pixels, a mask that does not fit, a good one."""
    (folder / "text.png").write_text("no image")
    Image.new("L", (5, 5)).save(folder / "mask.png")
    return [
        Item(png(folder / "a.png"), 0),
        Item(folder / "text.png", 0),
        Item(dicom(folder / "b.dcm", "Doe^Jane"), 1),
        Item(png(folder / "c.png"), 1, masks=(folder / "mask.png",)),
        Item(png(folder / "thin.png"), 1),
    ]


def test_every_frame_has_the_joined_masks(tmp_path: Path) -> None:
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


def test_they_are_left_out_by_name(tmp_path: Path) -> None:
    text = io.StringIO()
    items = items_of(tmp_path)

    def prepare(image: SourceImage) -> None:
        if image.source.endswith("thin.png"):
            raise ImageError(image.source, "is too thin", "cut it")

    kept = leave_out_unreadable(items, prepare, Console(file=text, width=300, soft_wrap=True))
    assert kept == (items[0],)
    said = text.getvalue()
    for name in ("text.png", "b.dcm", "mask.png", "thin.png"):
        assert f"{tmp_path / name}: " in said
    assert "Doe" not in said


def test_where_none_can_be_read_that_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"3 of 3 files: .*text\.png"):
        leave_out_unreadable(items_of(tmp_path)[1:4], repr, Console(file=io.StringIO()))


def test_one_error_counts_all_and_names_the_first() -> None:
    errors = [ImageError(f"{place}.png", "is no image", "hint it") for place in range(NAMED + 2)]
    text = str(unreadable(errors, 40))
    assert text.startswith(f"{NAMED + 2} of 40 files: cannot be used: 0.png (is no image); 1.png")
    assert f"{NAMED - 1}.png (is no image); 2 more. " in text
    assert f"{NAMED}.png" not in text
    assert "--skip-bad" in text

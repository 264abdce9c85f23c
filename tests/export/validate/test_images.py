"""The images on which an export is checked."""

from pathlib import Path

from PIL import Image

from medfocus.errors import FileError
from medfocus.export.validate.images import gate_images, phantoms
from tests.errors import refuses


def test_the_users_images_come_first(tmp_path: Path) -> None:
    Image.fromarray(phantoms(1)[0].pixels).save(tmp_path / "own.png")
    images = gate_images(tmp_path, 6)
    assert [Path(image.source).name for image in images][:2] == ["own.png", "phantom 0"]
    assert len(images) == 6
    assert len({image.pixels.tobytes() for image in images[1:]}) == 5
    (tmp_path / "empty").mkdir()
    with refuses(FileError, "file.no_images", "empty"):
        gate_images(tmp_path / "empty", 6)

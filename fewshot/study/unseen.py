"""Refuses evaluation on training images."""

from collections.abc import Sequence

from medfocus.errors import InputError
from medfocus.fewshot.examples import Examples


def check_unseen(test: Examples, seen: set[str], names: Sequence[str]) -> None:
    """Check that no test image was trained on, comparing pixels rather than files.

    Args:
        test: the images to evaluate on.
        seen: pixel hashes of the training images.
        names: file names, indexed by `test.files`.

    Raises:
        InputError: an image is in both.
    """
    known = [
        names[file]
        for file, content in zip(test.files.tolist(), test.content, strict=True)
        if content in seen
    ]
    if known:
        raise InputError(
            f"{len(known)} of {len(test)} test images, {known[0]} first",
            "were trained on: their pixels are the same",
            "leave them out of the test with --skip-bad, or out of the training, and refit",
            code="split.trained_on_test_images",
        )

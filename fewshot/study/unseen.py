"""No evaluation on what was learned from."""

from collections.abc import Sequence

from medfocus.errors import InputError
from medfocus.fewshot.examples import Examples


def check_unseen(test: Examples, seen: set[str], names: Sequence[str]) -> None:
    """Refuse to evaluate on what was learned from.

    Args:
        test: the images to evaluate on.
        seen: hashes of the pixels of the images that were trained on.
        names: of the files that `test.files` counts.

    Raises:
        InputError: some picture is in both, whatever its file looks like.
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
            "take them out of one of the two, and fit anew",
        )

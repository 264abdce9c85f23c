"""No evaluation on what was learned from."""

from medfocus.errors import InputError
from medfocus.fewshot.examples import Examples


def check_unseen(test: Examples, seen: set[str]) -> None:
    """Refuse to evaluate on what was learned from.

    Args:
        test: the images to evaluate on.
        seen: hashes of the pixels of the images that were trained on.

    Raises:
        InputError: some picture is in both, whatever its file looks like.
    """
    known = sum(content in seen for content in test.content)
    if known:
        raise InputError(
            f"{known} of {len(test)} test images",
            "were trained on: their pixels are the same",
            "take them out of one of the two, and fit anew",
        )

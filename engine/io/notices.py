"""What the reader of a prediction must know about how its image was read."""


class Notice(str):
    """A warning: one sentence, and what programs tell warnings apart by.

    It is a `str`, so that it is printed, joined and written to JSON as its sentence.

    Args:
        code: as `pixels.no_window`; docs/errors.md lists all. It never changes its meaning.
        text: the sentence, without values of the file except sizes and numbers of frames.
    """

    code: str

    def __new__(cls, code: str, text: str) -> "Notice":
        """A sentence with its code."""
        notice = super().__new__(cls, text)
        notice.code = code
        return notice

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        # For pickle: predictions cross processes.
        return self.code, str(self)


MIN_MAX = Notice("pixels.min_max_normalised", "no fixed scale: grey levels are min-max normalised")
CONSTANT = Notice("pixels.constant", "all pixels have one value: the image is shown black")

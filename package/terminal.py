"""Text that is safe on a terminal."""


def printable(text: str) -> str:
    """`text` without terminal control characters."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)

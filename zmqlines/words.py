"""Text that others have chosen, such as the name of a file, made fit for a terminal. Pure."""

from __future__ import annotations


def readable(text: str) -> str:
    """`text` with what is not printable, such as ESC, as `\\xNN` or `\\uNNNN`."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )

"""Keeping memory small: what is given back, and chunks that would take much of it."""

from __future__ import annotations

import contextlib
import ctypes


def trim() -> None:
    """Give back to the kernel what glibc's malloc keeps for later (malloc_trim(3))."""
    with contextlib.suppress(AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def cut(lines: bytes, most: int) -> list[bytes]:
    """`lines`, each of which ends with LF, in parts of at most so many."""
    if lines.count(b"\n") <= most:
        return [lines]
    each = lines[:-1].split(b"\n")
    starts = range(0, len(each), most)
    return [b"\n".join(each[start : start + most]) + b"\n" for start in starts]

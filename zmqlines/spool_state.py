"""What the holder of a spool file tells to others: in a small file beside it, for --list.

SQLite's exclusive lock lets nobody else read what waits. The state is some moments old.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import NamedTuple

SUFFIX = "-state"
LARGEST = 256  # bytes


class State(NamedTuple):
    """What waits in a file."""

    pid: int  # of the process that holds it
    events: int
    size: int  # of these, in bytes
    oldest: int  # when its first chunk came, in seconds since the epoch; 0 where nobody knows

    def write(self, path: str) -> None:
        """Tell it, beside the file at `path`. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path + SUFFIX, flags, 0o600)
        try:
            # In one write of one size: whoever reads it sees all of it, or all of the one before.
            os.pwrite(descriptor, json.dumps(self._asdict()).ljust(LARGEST - 1).encode() + b"\n", 0)
        finally:
            os.close(descriptor)


def read_state(path: str) -> State | None:
    """What was told of the file at `path`; None where that cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        descriptor = os.open(path + SUFFIX, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            state = State(**json.loads(os.read(descriptor, LARGEST)))
        finally:
            os.close(descriptor)
        if all(type(number) is int and 0 <= number < 2**63 for number in state):
            return state
    return None


def forget_state(path: str) -> None:
    """Nobody holds the file at `path` any more."""
    with contextlib.suppress(OSError):
        os.unlink(path + SUFFIX)

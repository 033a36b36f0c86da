"""What lies in the files of a spool."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """A chunk in a file."""

    number: int
    events: int
    batch: int
    text: bytes

    def messages(self) -> list[bytes]:
        return self.text.split(b"\n")


def rows(directory: Path) -> list[Row]:
    """What dead processes have left behind in `directory`, the oldest first; seen in a copy."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(directory, Path(scratch, "copy"))
        for path in sorted(copy.glob("*.spool")):
            with contextlib.closing(sqlite3.connect(path)) as database:
                if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'chunk'").fetchall():
                    select = "SELECT number, events, batch, text FROM chunk ORDER BY number"
                    found += map(Row._make, database.execute(select))
    return found

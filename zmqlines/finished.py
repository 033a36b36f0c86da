"""A chunk whose messages are finished: what a spool keeps, and what rsyslog gives by itself."""

from __future__ import annotations

import contextlib
import zlib
from typing import Any


class Finished:
    """Messages that are ready to be sent, each of them up to `batch` events; a Sendable."""

    __slots__ = ("_count", "_messages", "_text", "batch", "file", "number", "size")

    def __init__(
        self, text: bytes, count: int, batch: int, messages: list[bytes] | None = None
    ) -> None:
        """`text` is the messages with LF between them, which none of several has inside."""
        # To look at all of them would take a twentieth of the time.
        assert not messages or len(messages) == 1 or b"\n" not in messages[0] + messages[-1]
        self.number = 0  # of a chunk that somebody took, or a file has
        self.file: Any = None  # that keeps it: the spool's matter
        self.batch = batch
        self.size = len(text) + 1  # as much as the lines of a Chunk: the LF counts
        self._text = text
        self._count = count
        self._messages = messages

    def messages(self) -> list[bytes]:
        """What is sent."""
        if self._messages:
            return self._messages
        return self._text.split(b"\n") if self._count > self.batch else [self._text]

    def text(self) -> bytes:
        """The messages in one piece, with LF between them; if it is one, it may have any bytes."""
        return self._text

    def count(self) -> int:
        """How many events it has."""
        return self._count

    @classmethod
    def of_row(cls, events: int, batch: int, crc: int, text: bytes) -> Finished:
        """The one that `row()` described. Raises ValueError where that cannot be."""
        with contextlib.suppress(TypeError):  # from a damaged file comes anything
            chunk = cls(text, events, batch)
            if chunk._crc() == crc:
                return chunk
        raise ValueError

    def row(self) -> tuple[int, int, int, bytes]:
        """What is kept in a spool file: events, batch, CRC-32, text."""
        return self._count, self.batch, self._crc(), self._text

    def _crc(self) -> int:
        return zlib.crc32(self._text, zlib.crc32(b"%d %d" % (self._count, self.batch)))

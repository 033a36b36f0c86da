"""The pieces of a line that is longer than --max-line: what tells which is which. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from zmqpush import EventFormat, RawFormat


class Piece(NamedTuple):
    """What the event of a piece has in its field `piece`; all of a line's join to that line."""

    line: int  # of those of this process that were cut, from 1 up
    number: int  # of its pieces, from 1 up
    offset: int  # bytes of the line before it
    size: int  # bytes of the line in it
    last: bool  # the line ends with it

    def form(self, form: EventFormat) -> EventFormat:
        """What makes its event; alone, it is no JSON."""
        if isinstance(form, RawFormat):  # has no place for fields
            return form
        marked = EventFormat.__new__(EventFormat)
        text = json.dumps({"piece": self._asdict()}, separators=(",", ":"))[1:-1]
        marked.__dict__ = {**form.__dict__, "_pairs": {**form._pairs, "piece": text.encode()}}
        return marked


class Marker:
    """Numbers the pieces as they come."""

    def __init__(self) -> None:
        self._before = Piece(0, 0, 0, 0, True)

    def marked(
        self, lines: bytes, cut: list[tuple[int, int, bool]]
    ) -> Iterator[tuple[bytes, Piece | None]]:
        """All of `lines`, in order; `cut` tells where pieces are in it (LineSplitter)."""
        start = 0
        for at, size, is_last in cut:
            yield lines[start:at], None
            start = at + size + 1
            yield lines[at:start], self._next(size, is_last)
        yield lines[start:], None

    def _next(self, size: int, is_last: bool) -> Piece:
        line, number, offset, before, was_last = self._before
        if was_last:
            line, number, offset, before = line + 1, 0, 0, 0
        self._before = Piece(line, number + 1, offset + before, size, is_last)
        return self._before

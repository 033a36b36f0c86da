"""`--format json`: a line that is a JSON object is sent as it is, plus what it lacks."""

from __future__ import annotations

import argparse
import json
from typing import NoReturn

import zmqpush


def check(options: argparse.Namespace) -> None:
    """It goes with every other option."""


def refuse_constant(name: str) -> NoReturn:
    """For a JSON decoder: NaN and Infinity are not JSON. Raises ValueError."""
    raise ValueError(f"{name} is not JSON")


# Numbers stay text: they are never used, and Python refuses to read very long ones.
STRICT_JSON = json.JSONDecoder(parse_constant=refuse_constant, parse_int=str, parse_float=str)
NOT_JSON = (ValueError, RecursionError)  # what it raises


class JsonFormat(zmqpush.EventFormat):
    """Any line that is no JSON object becomes what it would without this format."""

    def _make(self, lines: bytes, pairs: dict[str, bytes]) -> list[bytes]:
        head, tail = self.HEAD, self._tail(pairs)
        events = [
            spliced(line, pairs) or head + zmqpush.json_escaped(line) + tail
            for line in lines.split(b"\n")
        ]
        return events if self.batch == 1 else self._arrays(events, b"", b"")

    def _event(self, text: bytes, pairs: dict[str, bytes]) -> bytes:
        return spliced(text, pairs) or super()._event(text, pairs)


def spliced(line: bytes, pairs: dict[str, bytes]) -> bytes | None:
    """`line` with the `pairs` it lacks, where it is a JSON object; else None."""
    if b"{" not in line:
        return None
    try:
        members = STRICT_JSON.decode(line.decode())
    except NOT_JSON:
        return None
    if not isinstance(members, dict):
        return None
    lacking = [pair for name, pair in pairs.items() if name not in members]
    if not lacking:
        return line
    opened = line.rstrip(b" \t\r\n")[:-1]
    return opened + (b"," if members else b"") + b",".join(lacking) + b"}"

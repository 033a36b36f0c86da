"""Events as json.dumps would make them, one at a time, and lines of every kind to make them of.

The form is that of the first description: `{"message":"…","type":"…","@pid":N}`, then the
timestamp, then the fields.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any
from unittest import mock

from hypothesis import strategies as st

import zmqpush

PID = 19863
PLAIN = {"type": "syslog", "@pid": PID}
READ_AT_MS = 1_700_000_000_123
READ_AT = "2023-11-14T22:13:20.123Z"


@functools.cache
def event_format(*arguments: str) -> zmqpush.EventFormat:
    """The format that these command line arguments ask for, whoever runs the tests."""
    with mock.patch.dict(os.environ, clear=True):
        options = zmqpush.parse_options(zmqpush.build_parser("test"), list(arguments))
    return zmqpush.make_format(options, PID)


def messages(lines: list[bytes], *arguments: str) -> list[bytes]:
    """What is sent for a chunk of `lines`, without their ends."""
    chunk = b"".join(line + b"\n" for line in lines)
    return event_format(*arguments).messages(chunk, READ_AT_MS)


def message(line: bytes, *arguments: str) -> bytes:
    """What is sent for a chunk of one line."""
    (only,) = messages([line], *arguments)
    return only


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def reference(line: bytes, members: dict[str, Any] = PLAIN) -> bytes:
    """The event for one line, by json.dumps."""
    return compact({"message": line.decode(errors="backslashreplace"), **members})


def as_arrays(events: list[bytes], batch: int) -> list[bytes]:
    """What is sent for `events` with --batch."""
    return [
        b"[" + b",".join(events[start : start + batch]) + b"]"
        for start in range(0, len(events), batch)
    ]


# What is special to somebody on the way: to JSON, to UTF-8, to those who split lines.
FRAGMENTS = [
    *(bytes([code]) for code in (*range(0x20), 0x7F, 0x80, 0xBF, 0xC0, 0xF5, 0xFF)),
    *(text.encode() for text in '"\\/ aé€😀\x80\u2028\u2029\ufeff\ufffd\uffff'),
    b"\xc3",  # the beginning of a character
    b"\xe2\x82",
    b"\xf0\x9f\x98",
    b"\xc0\xaf",  # "/" made longer than it is
    b"\xed\xa0\xbd\xed\xb8\x80",  # two surrogates, each on its own: CESU-8
    b"\xf4\x90\x80\x80",  # beyond the last character
    b"\\u0041",
    b"\\n",
    b"%s",
    b"{}",
]
lines_of_anything = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(b"".join),
    st.text(max_size=20).map(lambda text: text.encode(errors="surrogatepass")),
    st.binary(max_size=20),
    st.from_regex(r"[ -~]{0,40}", fullmatch=True).map(str.encode),
).map(lambda line: line.replace(b"\n", b""))
chunks = st.lists(lines_of_anything, min_size=1, max_size=8)

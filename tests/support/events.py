"""The events of frames by the rules of Logstash's json codec, read by json.loads."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

TAG = ["_jsonparsefailure"]


def refuse(name: str) -> None:
    raise ValueError(name)


# Numbers as they are written: neither rounded nor too long to be read.
read_json = functools.partial(json.loads, parse_constant=refuse, parse_int=str, parse_float=str)


def wrapped(frame: bytes) -> dict[str, Any]:
    """The event that carries what is none."""
    return {"message": frame.decode(errors="backslashreplace"), "tags": TAG}


def reference(frame: bytes) -> list[Any]:
    """What the events of a frame say, by json.loads."""
    try:
        value = read_json(frame.decode())
    except (ValueError, RecursionError):
        return json_lines(frame) or [wrapped(frame)]
    values = value if isinstance(value, list) else [value]
    return values if all(isinstance(value, dict) for value in values) else [wrapped(frame)]


def json_lines(frame: bytes) -> list[Any]:
    """The objects, if each line of several is one; blank lines do not count."""
    lines = [line for line in re.split(b"[\r\n]", frame) if line.strip()]
    try:
        values = [read_json(line.decode()) for line in lines]
    except (ValueError, RecursionError):
        return []
    return values if len(values) > 1 and all(isinstance(value, dict) for value in values) else []

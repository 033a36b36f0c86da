"""What a collector makes of frames: events, each a JSON object on one line. Pure.

Nothing is done an event at a time that can be done for many at once.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator

import zmqpush
from zmqlines.json_format import NOT_JSON, STRICT_JSON

PARSE_FAILURE = "_jsonparsefailure"  # the tag of Logstash's json codec
JSON_BLANKS = " \t\n\r"  # RFC 8259, section 2
STRICT = STRICT_JSON.raw_decode
MARK = str(random.SystemRandom().randrange(10**17, 10**18))  # a number that no sender knows
BETWEEN = f",{MARK},".encode()
NO_CONTROLS = bytes(range(0x20, 0x100))
HEAD = zmqpush.EventFormat.HEAD
FIRST_OF_TAIL = b'","type":'  # behind a message, as zmqpush.py writes it
SIMPLE_ESCAPES = (b"\\\\", b'\\"', b"\\t")  # the first one first: what follows it is no escape


def events_of(frames: list[bytes]) -> list[bytes]:
    """The events in `frames`, each a JSON object on one line, in valid UTF-8.

    A frame is an object or an array of objects, as Logstash's json codec takes them; each object
    keeps its own text. Lines of which each is an object are events, too, as its codec json_lines
    takes them. Anything else becomes an event that has it as `message`, and a tag.
    """
    # Who sends arrays sends nothing else: then there is no need to look whether all are objects.
    if frames and frames[0][:1] != b"[" and are_objects(frames):
        return frames
    return list(itertools.chain.from_iterable(map(events_in, frames)))


def events_in_lines(text: bytes) -> list[bytes]:
    """As events_of(), of frames that come with a newline between them."""
    if text[:1] == b"[":
        return list(itertools.chain.from_iterable(map(events_in, long_lines(text))))
    frames = text.split(b"\n")
    return frames if simple_messages(text, b"\n") else events_of(frames)


def long_lines(text: bytes) -> Iterator[bytes]:
    """What split() gives; lines of thousands of bytes in an eighth of the time."""
    at = 0
    while (end := text.find(b"\n", at)) >= 0:
        yield text[at:end]
        at = end + 1
    yield text[at:]


def are_objects(texts: list[bytes]) -> bool:
    """Whether each of `texts` is a JSON object on one line."""
    return len(simple_messages(b"\n".join(texts), b"\n")) == len(texts) or are_objects_together(
        BETWEEN.join(texts), len(texts)
    )


def simple_messages(text: bytes, between: bytes) -> list[bytes]:
    """The messages of the objects in `text`, with `between` between them; [] if they are not alike.

    They are if all begin with a simple message, and are the same behind it: that is what comes from
    one shipper. A handful of operations on all the bytes tell it, in a third of the time that it
    takes to read JSON.
    """
    tail = tail_of(text)
    if not (
        text.startswith(HEAD)
        and len(text) >= len(HEAD + tail)
        and are_objects_together(HEAD + tail, 1)
    ):
        return []
    messages = text[len(HEAD) : -len(tail)].split(tail + between + HEAD)
    joined = b"\n".join(messages)
    if joined.translate(None, NO_CONTROLS) != b"\n" * (len(messages) - 1):
        return []
    for escape in SIMPLE_ESCAPES if b"\\" in joined else ():
        joined = joined.replace(escape, b"_")
    # What is left of these would end the string, or be an escape that is not simple.
    if b'"' in joined or b"\\" in joined or not is_utf8(joined):
        return []
    return messages


def tail_of(text: bytes) -> bytes:
    """What is behind the last message, as zmqpush.py writes it; anything where that is not so."""
    return text[text.rfind(FIRST_OF_TAIL) :]


def is_utf8(text: bytes) -> bool:
    """Whether it can be decoded."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def are_objects_together(text: bytes, count: int) -> bool:
    """Whether `text` is `count` JSON objects on one line, with BETWEEN between them.

    To read many at once takes a fifth of the time. What is valid only together, such as the halves
    of an object in two frames, is found out, for then a mark is not where it should be.
    """
    try:
        array = f"[{text.decode()}]"
        values, end = STRICT(array, 0)
    except NOT_JSON:
        return False
    return (
        end == len(array)
        and "\n" not in array
        and "\r" not in array
        and len(values) == 2 * count - 1
        and values[1::2] == [MARK] * (count - 1)
        and set(map(type, values[::2])) == {dict}
    )


def events_in_simple(array: bytes) -> list[bytes]:
    """The events in an array of those that are alike (simple_messages()); [] if it is not such."""
    if array[:1] != b"[" or array[-1:] != b"]":
        return []
    tail = tail_of(array[1:-1])
    messages = simple_messages(array[1:-1], b",")
    return (HEAD + (tail + b"\n" + HEAD).join(messages) + tail).split(b"\n") if messages else []


def parts_of(frame: bytes) -> list[bytes]:
    """The objects, unless are_objects() says no, of an array that has no blanks between them.

    That is how zmqpush.py makes it. Where `frame` is no array, it is the only part.
    """
    if frame[:1] != b"[" or frame[-1:] != b"]" or b"\n" in frame:
        return [frame]
    return frame[1:-1].replace(b"},{", b"}\n{").split(b"\n")


def events_in(frame: bytes) -> list[bytes]:
    """The events of one frame."""
    events = events_in_simple(frame)
    if events:
        return events
    parts = parts_of(frame)
    if are_objects(parts):
        return parts
    try:
        # Outside of strings a line end is a blank, and inside there is none.
        return [re.sub("[\n\r]", " ", text).encode() for text in objects_in(frame.decode())]
    except NOT_JSON:
        lines = [line for line in frame.splitlines() if line.strip()]  # the codec json_lines
        return lines if len(lines) > 1 and are_objects(lines) else [as_message(frame)]


def as_message(frame: bytes) -> bytes:
    """An event that has `frame` as its message, and says that it was none."""
    event = {"message": frame.decode(errors="backslashreplace"), "tags": [PARSE_FAILURE]}
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def objects_in(text: str) -> list[str]:
    """The text of the object, or of each object in the array, that `text` is. Raises NOT_JSON."""
    text = text.strip(JSON_BLANKS)
    if text[:1] != "[":
        return [object_at(text, 0, len(text))]
    objects: list[str] = []
    at = after_blanks(text, 1)
    while text[at : at + 1] != "]" or objects:  # a comma before the end is an error
        objects.append(object_at(text, at))
        at = after_blanks(text, at + len(objects[-1]))
        if text[at : at + 1] != ",":
            break
        at = after_blanks(text, at + 1)
    if text[at:] != "]":
        raise ValueError
    return objects


def object_at(text: str, start: int, end: int | None = None) -> str:
    """The text of the JSON object at `start`, which ends at `end` if that is said."""
    value, found = STRICT(text, start)
    if type(value) is not dict or end not in (None, found):
        raise ValueError
    return text[start:found]


def after_blanks(text: str, at: int) -> int:
    """The place of the next character from `at` on that is no blank of JSON."""
    while text[at : at + 1] and text[at] in JSON_BLANKS:
        at += 1
    return at

"""What a collector makes of frames: events, by the rules of Logstash's json codec."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import zmqpush
from tests.support.collector import strict_json
from tests.support.events import read_json, reference, wrapped
from tests.support.properties import EXAMPLES, thorough
from zmqlines.events import (
    BETWEEN,
    HEAD,
    are_objects,
    are_objects_together,
    events_in_lines,
    events_in_simple,
    events_of,
    simple_messages,
)

fewer = settings(thorough, max_examples=min(EXAMPLES, 100))


def check_events(frames: list[bytes]) -> None:
    """They say what the frames say, each on one line."""
    events = events_of(frames)
    assert not [event for event in events if b"\n" in event or b"\r" in event]
    said = [read_json(event.decode()) for event in events]
    assert said == [value for frame in frames for value in reference(frame)]


def on_one_line(text: str) -> str:
    """What is a line end outside of strings (inside there is none) is a blank."""
    return text.replace("\n", " ").replace("\r", " ")


def is_object_on_one_line(frame: bytes) -> bool:
    try:
        return isinstance(read_json(frame.decode()), dict) and not re.search(b"[\n\r]", frame)
    except ValueError:
        return False


# ---- frames of every kind ---------------------------------------------------------------------

nasty_texts = st.text(st.sampled_from('},{[]":\\ \n\taé€😀\u2028\x85\ud800\x00'), max_size=12)
texts = nasty_texts | st.text(max_size=5)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)

blanks = st.text(" \t\r\n", max_size=2)
separators = st.sampled_from([(",", ":"), (", ", ": "), (" , ", "\t:\n"), (",\r\n", ":")])


def written(values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """The JSON of such values, written as somebody might; NaN and Infinity as Python does."""
    return st.builds(
        lambda value, separators, indent, as_ascii: json.dumps(
            value, separators=separators, indent=indent, ensure_ascii=as_ascii
        ),
        *(values, separators, st.none() | st.integers(0, 2), st.booleans()),
    )


def as_bytes(text: str) -> bytes:
    """In UTF-8, but for surrogates, which UTF-8 has not."""
    return text.encode(errors="surrogatepass")


clean_texts = texts.map(lambda text: text.encode(errors="replace").decode())


object_texts = written(
    st.dictionaries(
        clean_texts,
        clean_texts | st.integers() | st.lists(st.dictionaries(clean_texts, st.none(), max_size=2)),
        max_size=3,
    )
)


@st.composite
def array_texts(draw: st.DrawFn) -> tuple[list[str], str]:
    """Objects, and an array of them."""
    objects = draw(st.lists(object_texts, max_size=4))
    parts = [draw(blanks) + text + draw(blanks) for text in objects]
    return objects, draw(blanks) + "[" + ",".join(parts) + draw(blanks) + "]" + draw(blanks)


@st.composite
def cut_in_two(draw: st.DrawFn, frames: st.SearchStrategy[bytes]) -> list[bytes]:
    """The halves of a frame, which are neighbours."""
    frame = draw(frames)
    at = draw(st.integers(0, len(frame)))
    return [frame[:at], frame[at:]]


any_frame = st.one_of(
    object_texts.map(as_bytes),
    array_texts().map(lambda array: as_bytes(array[1])),
    written(json_values).map(as_bytes),
    st.binary(max_size=6),
    st.lists(
        st.sampled_from([b"{", b"}", b"[", b"]", b",", b'"', b"{}", b"a", b"1"]), max_size=6
    ).map(b"".join),
)


any_frames = st.lists(any_frame.map(lambda frame: [frame]) | cut_in_two(any_frame), max_size=5).map(
    lambda groups: [frame for group in groups for frame in group]
)


# ---- what they become -------------------------------------------------------------------------


@fewer
@given(any_frames)
@example([])
@example([b'{"a":[1', b"2]}"])
@example([b'{"a":"', b'"}'])
@example([b"{}", b"{},{}", b"{}"])
@example([b"{},{}"])
@example([b"[{}", b"{}]"])
@example([b"{}],[{}"])
@example([b'{"a":[1', b"2]},3,{}"])
def test_the_events_of_any_frames_are_objects_that_say_what_the_frames_say(
    frames: list[bytes],
) -> None:
    check_events(frames)


@fewer
@given(st.lists(st.tuples(blanks, object_texts, blanks), max_size=5))
def test_an_object_keeps_its_own_text(objects: list[tuple[str, str, str]]) -> None:
    events = events_of(["".join(parts).encode() for parts in objects])
    expected = [on_one_line(text) for _, text, _ in objects]
    assert [event.decode().strip(" \t") for event in events] == expected


@fewer
@given(st.lists(array_texts(), max_size=3))
@example([(['{"a":"},{"}', "{}"], '[{"a":"},{"},{}]')])
@example([(['{"a":[{},{}]}', "{}"], '[{"a":[{},{}]},{}]')])
@example([(['{"a":"},{"}', "{}"], '[{"a":"},{"}, {}]')])
@example([([], "[]"), ([], " [ ] ")])
def test_the_objects_of_arrays_come_out_one_by_one_in_order_with_their_own_text(
    arrays: list[tuple[list[str], str]],
) -> None:
    events = events_of([text.encode() for _, text in arrays])
    expected = [on_one_line(text) for objects, _ in arrays for text in objects]
    assert [event.decode().strip(" \t") for event in events] == expected


@fewer
@given(any_frames.filter(bool))
@example([b'{"a":1', b'"b":2}'])
@example([b'{"a":"\\"', b'"}'])
def test_many_frames_at_once_are_seen_to_be_objects_just_where_each_of_them_is(
    frames: list[bytes],
) -> None:
    expected = all(map(is_object_on_one_line, frames))
    assert are_objects_together(BETWEEN.join(frames), len(frames)) is expected
    assert are_objects(frames) is expected


TAILS = (b'","type":1}', b'","type":"","a":"\\n"}', b'","type":{}', b'","type":"\\"}')


parts_of_messages = st.lists(
    st.sampled_from(
        [
            b"\\",
            b'"',
            b"n",
            b"t",
            b"u0000",
            b"\n",
            b"\r",
            b"\x00",
            b"\xff",
            "é".encode(),
            b"x",
            *TAILS,
        ]
    ),
    max_size=4,
).map(b"".join)


alike_frames = st.lists(
    st.tuples(
        st.sampled_from([HEAD] * 9 + [b"", b'{"message":']),
        parts_of_messages,
        st.sampled_from([TAILS[0]] * 9 + [*TAILS]),
    ).map(b"".join),
    min_size=1,
    max_size=4,
)


@fewer
@given(alike_frames)
@example([b'{"message":","type":1}'])
@example([b'{"message":"a","type":1}', b'{"message":","type":1}'])
@example([b'{"message":","type":1}', b'{"message":"a","type":1}'])
@example([b'{"message":"\\\\","type":1}', b'{"message":"\\","type":1}'])
@example([b'{"message":"a","type":1}\n{"message":"b","type":1}'])
@example([b'{"message":"a","type":1', b'{"message":"b","type":1'])
def test_frames_that_are_alike_are_seen_to_be_objects_just_where_each_of_them_is(
    frames: list[bytes],
) -> None:
    assert are_objects(frames) is all(map(is_object_on_one_line, frames))


@fewer
@given(alike_frames, st.sampled_from([b",", b", ", b"},{", b"]\n["]))
@example([b'{"message":"a","type":1}', b'{"message":","type":1}'], b",")
@example([b'{"message":"\\\\","type":1}', b'{"message":"\\","type":1}'], b",")
@example([b'{"message":"a","type":1', b'{"message":"b","type":1}'], b"},{")
def test_the_events_of_arrays_of_what_is_alike_say_what_the_arrays_say(
    texts: list[bytes], between: bytes
) -> None:
    check_events([b"[" + between.join(texts) + b"]"])


@fewer
@given(any_frames | alike_frames | st.lists(array_texts().map(lambda array: array[1].encode())))
@example([b'[{"a":"}', b'{"}]'])
@example([b"[{}]", b"[{}]", b"{}", b""])
def test_lines_of_a_chunk_give_the_events_that_they_give_as_frames(frames: list[bytes]) -> None:
    text = b"\n".join(frames)
    assert events_in_lines(text) == events_of(text.split(b"\n"))


@fewer
@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"])), min_size=1, max_size=5))
def test_the_quick_look_is_enough_for_what_a_shipper_sends(messages: list[str]) -> None:
    lines = "".join(message + "\n" for message in messages).encode()

    def sent(*options: str) -> list[bytes]:
        parsed = zmqpush.parse_options(zmqpush.build_parser(""), ["app", "-f", "host=a", *options])
        return zmqpush.make_format(parsed, 1).messages(lines, 0)

    events = sent()
    assert len(simple_messages(b"\n".join(events), b"\n")) == len(events)
    (array,) = sent("--batch", "10")
    assert events_in_simple(array) == events


@pytest.mark.parametrize(
    "frame",
    [
        b'{"a":1}',
        b"{}",
        b'{"a":%b}' % (b"9" * 5000),  # digits: more than Python makes a number of
        b'{"a":1e999999,"b":-0.0,"c":1.50}',
        b'{"a":%b1%b}' % (b"[" * 100, b"]" * 100),
        rb'{"a":"\ud800","\udfff":"\ud83d\ude00"}',  # halves of pairs, and a pair
        '{"a":"\u2028\u2029\x85","é":"😀"}'.encode(),
        b'{"a":1,"a":2}',
        rb'{"a":"\n\r\u000a"}',
    ],
)
@pytest.mark.parametrize("form", [b"%b", b"[%b]", b'[{"x":0},%b,{}]'])
def test_an_object_is_not_written_anew(frame: bytes, form: bytes) -> None:
    assert frame in events_of([form % frame])
    assert events_of([b"x", form % frame])[1:] == events_of([form % frame])


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b" ",
        b"text",
        b"1",
        b"null",
        b'"a"',
        b"[1]",
        b"[{},1]",
        b"[[{}]]",
        b"[{},]",
        b"[,{}]",
        b"[{} {}]",
        b"[{}",
        b"{}]",
        b"[{}],",
        b"{}{}",
        b'{"a":1}x',
        b'{"a":NaN}',
        b'{"a":[Infinity]}',
        b'{"a":-Infinity}',
        b'[{"a":1},{"a":NaN}]',
        b"{'a':1}",
        b'{"a":01}',
        b'{"a":"\n"}',
        b'{"a":"\x00"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',  # half a surrogate pair, in what is not UTF-8
        b"\xef\xbb\xbf{}",  # a mark of byte order
        b"\xff\xfe\x00",
        b'{"a":%b%b}' % (b"[" * 1_000_000, b"]" * 1_000_000),
        b"[" * 1_000_000,
        rb'say "hi" \ \xff',
    ],
    ids=lambda frame: repr(frame[:20]),
)
def test_what_is_no_object_becomes_the_message_of_an_event_with_a_tag(frame: bytes) -> None:
    (event,) = events_of([frame])
    assert strict_json(event) == wrapped(frame)
    neighbours = events_of([b'{"a":1}', frame, b'{"b":2}'])
    assert neighbours == [b'{"a":1}', event, b'{"b":2}']


def test_an_event_too_deep_to_be_read_is_a_message_and_no_failure() -> None:
    frames = [b'{"a":%b%b}' % (b"[" * depth, b"]" * depth) for depth in range(800, 1100)]
    for frame in frames:
        (event,) = events_of([frame])
        assert event == frame or strict_json(event) == wrapped(frame)


def test_an_empty_array_has_no_events() -> None:
    assert events_of([b"[]", b"[ ]", b"\t[\n]\r\n"]) == []

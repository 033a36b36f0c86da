"""--format json: an object keeps its own text and gets what it lacks. Pure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.push.events import (
    PLAIN,
    READ_AT,
    as_arrays,
    compact,
    lines_of_anything,
    message,
    messages,
    reference,
)
from tests.support.properties import EXAMPLES, thorough


def as_json(line: bytes, *arguments: str) -> bytes:
    return message(line, "--format", "json", *arguments)


class Members(list):  # type: ignore[type-arg]
    """Of an object, in their order; told from an array by the type."""


def members_of(line: bytes) -> Members | None:
    """The members of a JSON object; None for anything else. A strict parser."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        value = json.loads(line.decode(), object_pairs_hook=Members, parse_constant=refuse)
    except ValueError:
        return None
    return value if isinstance(value, Members) else None


def check_as_json(line: bytes, event: bytes, additions: dict[str, Any]) -> None:
    """`event` is what --format json must make of `line`."""
    members = members_of(line)
    if members is None:
        assert event == reference(line, additions)
        return
    lacking = {name: value for name, value in additions.items() if name not in dict(members)}
    if not lacking:
        assert event == line
        return
    own_text = line[: line.rindex(b"}")]
    assert event.startswith(own_text), "its own text is kept"
    comma = b"," if members else b""
    assert event[len(own_text) :] == comma + compact(lacking)[1:]
    assert members_of(event) == members + list(lacking.items()), "and it is strict JSON"


blanks = st.text(" \t\r", max_size=2)
names = st.sampled_from(
    ["type", "@pid", "@timestamp", "host", "message", "", "Type", "é", 'a"b', "\\", "\u2028", "}"]
)
spellings = st.sampled_from(
    [
        lambda text: json.dumps(text),
        lambda text: json.dumps(text, ensure_ascii=False),
        lambda text: '"' + "".join(f"\\u{ord(character):04X}" for character in text) + '"',
    ]
)
odd_values = st.sampled_from(
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-0",
        "1E+2",
        "01",
        "9" * 30,
        "{}",
        "[{}]",
        '"\\ud800"',
    ]
)
values = st.one_of(
    odd_values,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=5,
    ).map(json.dumps),
)


@st.composite
def json_objects(draw: st.DrawFn) -> bytes:
    """An object as somebody may write it: blanks, duplicates, escapes in names, odd values."""
    pairs = [
        draw(blanks)
        + draw(spellings)(draw(names))
        + draw(blanks)
        + ":"
        + draw(blanks)
        + draw(values)
        for _ in range(draw(st.integers(0, 5)))
    ]
    inside = ",".join(pair + draw(blanks) for pair in pairs)
    return (draw(blanks) + "{" + draw(blanks) + inside + "}" + draw(blanks)).encode()


almost_json = st.one_of(
    json_objects(),
    st.tuples(json_objects(), st.sampled_from([b"x", b",", b"{}", b"\xff", b"\xa0", b"\x00"])).map(
        b"".join
    ),
    json_objects().map(lambda text: text[:-1]),
    json_objects().map(lambda text: b"[" + text + b"]"),
    json_objects().map(lambda text: b"\xef\xbb\xbf" + text),
    lines_of_anything,
)


@thorough
@given(st.lists(almost_json, min_size=1, max_size=5), st.booleans())
@example([b'{"a":"\x00"}'], False)
@example([b'{"a":1}\xc2\xa0', b'{"a":1}\x0b'], False)
def test_an_object_keeps_its_own_text_and_any_other_line_is_as_logstash_has_it(
    lines: list[bytes], timestamp: bool
) -> None:
    arguments = ["--format", "json", "-f", "host=x", *["--timestamp"] * timestamp]
    additions = {**PLAIN, **({"@timestamp": READ_AT} if timestamp else {}), "host": "x"}
    sent = messages(lines, *arguments)
    assert len(sent) == len(lines)
    for line, event in zip(lines, sent):
        check_as_json(line, event, additions)


@settings(thorough, max_examples=min(EXAMPLES, 100))
@given(st.lists(almost_json, min_size=1, max_size=5), st.integers(2, 4))
def test_a_batch_of_json_is_an_array_of_the_same_events(lines: list[bytes], batch: int) -> None:
    events = [as_json(line) for line in lines]
    assert messages(lines, "--format", "json", "--batch", str(batch)) == as_arrays(events, batch)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"{}", b'{"type":"syslog","@pid":19863}'),
        (b"{ }", b'{ "type":"syslog","@pid":19863}'),
        (b'{"a":1}', b'{"a":1,"type":"syslog","@pid":19863}'),
        (b' \t{"a": 1 } \r', b' \t{"a": 1 ,"type":"syslog","@pid":19863}'),
        (b'{"type":"app"}', b'{"type":"app","@pid":19863}'),
        (b'{"type":null,"@pid":[]} ', b'{"type":null,"@pid":[]} '),
        (b'{"\\u0074ype":"app"}', b'{"\\u0074ype":"app","@pid":19863}'),
        (b'{"a":{"type":1}}', b'{"a":{"type":1},"type":"syslog","@pid":19863}'),
        (b'{"a":1,"a":2}', b'{"a":1,"a":2,"type":"syslog","@pid":19863}'),
        (b'{"a":"}"}', b'{"a":"}","type":"syslog","@pid":19863}'),
        (b'{"a":1e999}', b'{"a":1e999,"type":"syslog","@pid":19863}'),
        ('{"é":"\u2028"}'.encode(), '{"é":"\u2028","type":"syslog","@pid":19863}'.encode()),
    ],
)
def test_an_object_gets_what_it_lacks_behind_its_own_text(line: bytes, event: bytes) -> None:
    assert as_json(line) == event


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"plain",
        b"1",
        b"null",
        b'"{}"',
        b"[]",
        b'[{"a":1}]',
        b'{"a":NaN}',
        b'{"a":[Infinity]}',
        b'{"a":{"b":-Infinity}}',
        b'{"a":1',
        b'{"a":1}}',
        b'{"a":1} x',
        b'{"a":1}{"b":2}',
        b'{"a":1,}',
        b"{'a':1}",
        b"{a:1}",
        b'{"a":01}',
        b'{"a":.5}',
        b'{"a":+1}',
        b'{"a":"\t"}',  # a control character must be escaped in a string
        b'{"a":"\x00"}',
        b'{"a":"\\x41"}',
        b'{"a":"\xff"}',
        b'{"a":1}\xff',
        b'{"a":1}\x0b',
        b'{"a":1}\xc2\xa0',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1}//',
    ],
)
def test_what_is_not_strictly_an_object_is_a_message(line: bytes) -> None:
    assert as_json(line) == reference(line)


def test_a_number_of_any_length_is_kept() -> None:
    number = b"9" * 100_000
    assert as_json(b'{"n":%b}' % number) == b'{"n":%b,"type":"syslog","@pid":19863}' % number


def test_nesting_that_is_deeper_than_the_parser_goes_ends_nothing() -> None:
    depth = 100_000
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    spliced = deep[:-1] + b',"type":"syslog","@pid":19863}'
    assert messages([deep, b"x"], "--format", "json")[0] in (reference(deep), spliced)
    assert messages([deep, b"x"], "--format", "json")[1] == reference(b"x")


def test_nesting_as_people_write_it_is_kept() -> None:
    deep = b'{"a":' * 100 + b"1" + b"}" * 100
    assert as_json(deep) == deep[:-1] + b',"type":"syslog","@pid":19863}'


def test_an_object_keeps_its_own_timestamp() -> None:
    own = b'{"@timestamp":"2000-01-01T00:00:00.000Z"}'
    assert as_json(own, "--timestamp") == own[:-1] + b',"type":"syslog","@pid":19863}'
    assert as_json(b"{}", "--timestamp") == compact({**PLAIN, "@timestamp": READ_AT})

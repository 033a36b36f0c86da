"""How lines become events. Pure: the fast whole-chunk way is held against a slow reference.

The reference makes one event at a time with json.dumps, whose form is that of the first
description: `{"message":"…","type":"…","@pid":N}`, then the timestamp, then the fields.
"""

from __future__ import annotations

import functools
import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import zmqpush
from tests.support.collector import strict_json

PID = 19863
PLAIN = {"type": "syslog", "@pid": PID}
READ_AT_MS = 1_700_000_000_123
READ_AT = "2023-11-14T22:13:20.123Z"

thorough = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@functools.cache
def event_format(*arguments: str) -> zmqpush.EventFormat:
    """The format that these command line arguments ask for."""
    options = zmqpush.parse_options(zmqpush.build_parser("test"), list(arguments))
    return zmqpush.EventFormat(options, PID)


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


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the tests may use the program."""
    for option in ("LOGTYPE", "FIELD", "TIMESTAMP", "FORMAT", "BATCH"):
        monkeypatch.delenv(f"ZMQPUSH_{option}", raising=False)


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
arguments = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10)
chunks = st.lists(lines_of_anything, min_size=1, max_size=8)


# ---- escaping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*range(0x0A), *range(0x0B, 0x100)])
def test_each_byte_alone_is_escaped_as_json_dumps_does(code: int) -> None:
    byte = bytes([code])
    text = byte.decode(errors="backslashreplace")
    assert zmqpush.json_escaped(byte) == json.dumps(text, ensure_ascii=False)[1:-1].encode()


def test_newlines_stay_so_that_a_chunk_can_be_cut_after_escaping() -> None:
    assert zmqpush.json_escaped(b'\n"\n\n\t\xff\n') == b'\n\\"\n\n\\t\\\\xff\n'


def test_characters_of_every_width_are_not_touched() -> None:
    text = "a\x7f é߿ࠀ\u2028￿ 𐀀😀\U0010ffff".encode()
    assert zmqpush.json_escaped(text) == text


def test_a_character_cut_by_a_line_end_is_not_mended_by_the_next_line() -> None:
    assert messages([b"\xe2\x82", b"\xac"]) == [reference(b"\xe2\x82"), reference(b"\xac")]
    assert strict_json(messages([b"\xe2\x82", b"\xac"])[0])["message"] == r"\xe2\x82"


def test_what_looks_like_an_escape_in_the_line_is_told_from_our_own() -> None:
    assert strict_json(message(rb"\n\u0041\xff"))["message"] == r"\n\u0041\xff"


# ---- --format logstash ------------------------------------------------------------------------


def test_the_event_has_the_form_of_the_first_description() -> None:
    assert message(b'say "hi"') == b'{"message":"say \\"hi\\"","type":"syslog","@pid":19863}'


@thorough
@given(chunks)
@example([b""])
@example([b"", b"", b""])
@example([b"\xe2\x82", b"\xac"])
@example([b"plain", b"\xff", "é".encode()])
def test_a_chunk_becomes_what_its_lines_become_one_by_one(lines: list[bytes]) -> None:
    sent = messages(lines)
    assert sent == [reference(line) for line in lines]
    for line, event in zip(lines, sent):
        text = line.decode(errors="backslashreplace")
        assert strict_json(event) == {"message": text, **PLAIN}


@thorough
@given(chunks, st.integers(2, 9))
def test_a_batch_is_an_array_of_the_same_events_and_only_the_last_one_is_short(
    lines: list[bytes], batch: int
) -> None:
    events = [reference(line) for line in lines]
    arrays = [
        b"[" + b",".join(events[start : start + batch]) + b"]"
        for start in range(0, len(events), batch)
    ]
    assert messages(lines, "--batch", str(batch)) == arrays


def test_a_batch_of_one_line_is_an_array_too() -> None:
    assert message(b"x", "--batch", "500") == b"[" + reference(b"x") + b"]"


@thorough
@given(lines_of_anything, arguments, arguments, arguments)
def test_type_and_fields_may_hold_any_text(
    line: bytes, logtype: str, name: str, value: str
) -> None:
    name = name.replace("=", "") + "_"  # neither empty nor one of ours
    sent = message(line, f"--field={name}={value}", "--", logtype)
    assert sent == reference(line, {"type": logtype, "@pid": PID, name: value})


def test_fields_follow_in_their_order_behind_the_timestamp() -> None:
    arguments = ["-f", "b=1", "--timestamp", "-f", "a=x=y", "-f", 'q"=\\']
    members = {**PLAIN, "@timestamp": READ_AT, "b": "1", "a": "x=y", 'q"': "\\"}
    assert message(b"x", *arguments) == reference(b"x", members)


def test_a_field_may_be_empty() -> None:
    assert message(b"x", "-f", "host=") == reference(b"x", {**PLAIN, "host": ""})


def test_what_is_not_utf8_in_type_and_fields_is_written_as_in_a_message() -> None:
    members = {"type": r"a\xff", "@pid": PID, r"n\xfe": r"v\xc3"}
    assert message(b"x", "a\udcff", "-f", "n\udcfe=v\udcc3") == reference(b"x", members)


def test_a_chunk_has_the_time_at_which_it_was_read() -> None:
    form = event_format("--timestamp")
    for ms, text in ((0, "1970-01-01T00:00:00.000Z"), (READ_AT_MS, READ_AT)):
        (event,) = form.messages(b"x\n", ms)
        assert event == reference(b"x", {**PLAIN, "@timestamp": text})


# ---- --timestamp ------------------------------------------------------------------------------


@thorough
@given(st.integers(0, 253_402_300_799_999))
@example(0)
@example(999)
@example(1_709_164_799_999)  # the last millisecond of 28 February of a leap year
def test_a_time_is_iso_8601_in_utc_with_milliseconds(ms: int) -> None:
    at = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=ms)
    assert zmqpush.iso8601(ms) == at.isoformat(timespec="milliseconds")[:-6] + "Z"


def test_the_time_zone_of_the_server_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/St_Johns")
        time.tzset()
        assert zmqpush.iso8601(READ_AT_MS) == READ_AT
    time.tzset()


# ---- --format raw -----------------------------------------------------------------------------


@thorough
@given(chunks)
@example([b"", b"", b"\xff", b""])
def test_raw_is_the_lines_themselves(lines: list[bytes]) -> None:
    assert messages(lines, "--format", "raw") == lines


# ---- --format json ----------------------------------------------------------------------------


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


@thorough
@given(st.lists(almost_json, min_size=1, max_size=5), st.integers(2, 4))
def test_a_batch_of_json_is_an_array_of_the_same_events(lines: list[bytes], batch: int) -> None:
    events = [as_json(line) for line in lines]
    arrays = [
        b"[" + b",".join(events[start : start + batch]) + b"]"
        for start in range(0, len(events), batch)
    ]
    assert messages(lines, "--format", "json", "--batch", str(batch)) == arrays


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

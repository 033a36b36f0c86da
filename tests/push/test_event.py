"""How lines become events. Pure: the fast whole-chunk way is held against a slow reference."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import zmqpush
from tests.push.events import (
    PID,
    PLAIN,
    READ_AT,
    READ_AT_MS,
    as_arrays,
    chunks,
    event_format,
    lines_of_anything,
    message,
    messages,
    reference,
)
from tests.support.collector import strict_json
from tests.support.properties import EXAMPLES, thorough

arguments = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10)


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


@settings(thorough, max_examples=min(EXAMPLES, 100))
@given(chunks, st.integers(2, 9))
def test_a_batch_is_an_array_of_the_same_events_and_only_the_last_one_is_short(
    lines: list[bytes], batch: int
) -> None:
    events = [reference(line) for line in lines]
    assert messages(lines, "--batch", str(batch)) == as_arrays(events, batch)


def test_a_batch_of_one_line_is_an_array_too() -> None:
    assert message(b"x", "--batch", "500") == b"[" + reference(b"x") + b"]"


@thorough
@given(lines_of_anything, arguments, arguments, arguments)
def test_type_and_fields_may_hold_any_text(
    line: bytes, logtype: str, name: str, value: str
) -> None:
    name = name.replace("=", "").lstrip("\"'") + "_"  # neither empty, quoted nor one of ours
    sent = message(line, f"--field={name}={value}", "--", logtype)
    logtype = logtype.rstrip(" ") or "syslog"  # rsyslog may leave a blank at the last word
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

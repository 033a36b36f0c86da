"""What is written arrives: every kind of text, through the real program, to a real collector."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import zmq

from tests.push.counters import ask_counters
from tests.support.aliases import Ship
from tests.support.collector import Collector, strict_json
from tests.support.lines import wait_until_pipe_is_empty
from tests.support.proc import wait_until_acts_on
from tests.support.programs import Shipper
from tests.support.waiting import DEADLINE_S, wait_until

MEBIBYTE = 1024 * 1024
WARNING = "zmqpush.py: a line is longer than --max-line; such lines are sent in pieces\n"


def as_event(text: str, pid: int) -> bytes:
    """The message that carries a line, byte for byte."""
    members = {"message": text, "type": "syslog", "@pid": pid}
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def wait_until_later(ms: int) -> None:
    wait_until(lambda: now_ms() > ms, "time has passed")


def wait_until_counted(shipper: Shipper, lines: int) -> None:
    wait_until(lambda: ask_counters(shipper).read == lines, f"{lines} lines are read")


def test_every_line_is_an_event_and_the_summary_counts_them(
    collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", collector.endpoint)
    result = shipper.finish(b'say "hi"\nbye\n')
    assert collector.receive(2) == [
        b'{"message":"say \\"hi\\"","type":"syslog","@pid":%d}' % shipper.pid,
        b'{"message":"bye","type":"syslog","@pid":%d}' % shipper.pid,
    ]
    assert (result.status, result.processed, result.stderr) == (0, 2, "")


CASES = {
    "quotes": (b'say "hi"\n""\n"\n', ['say "hi"', '""', '"']),
    "backslashes": (b"C:\\temp\\new\n\\\n\\\\\n", ["C:\\temp\\new", "\\", "\\\\"]),
    "what looks like an escape": (b'\\n \\u0041 \\"\n', [r"\n \u0041 \""]),
    "percent signs and braces": (b'%s %d {} {0} $1\n{"a":1}\n', ["%s %d {} {0} $1", '{"a":1}']),
    "a tab, NUL and ESC": (b"a\tb\0c\x1b[1md\n", ["a\tb\0c\x1b[1md"]),
    "every control character": (
        bytes([*range(10), *range(11, 32), 127]) + b"\n",
        ["".join(map(chr, [*range(10), *range(11, 32), 127]))],
    ),
    "UTF-8 of every width": (
        "a \x7f\nÿ é \x80 ߿\nࠀ € \uffff\n𐀀 😀 \U0010ffff\n".encode(),
        ["a \x7f", "ÿ é \x80 ߿", "ࠀ € \uffff", "𐀀 😀 \U0010ffff"],
    ),
    "separators that are no line ends": (
        "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n".encode(),
        ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"],
    ),
    "a byte order mark": (b"a\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
    "bytes that are not UTF-8": (
        b"caf\xe9 \x80\xff\xc0\xaf \xf4\x90\x80\x80\n",
        [r"caf\xe9 \x80\xff\xc0\xaf \xf4\x90\x80\x80"],
    ),
    "a character broken off": (
        b"\xe2\x82\n\xac\n\xf0\x9f\x98",
        [r"\xe2\x82", r"\xac", r"\xf0\x9f\x98"],
    ),
    "lone surrogates in CESU form": (
        b"\xed\xa0\xbd\xed\xb8\x80 \xed\xa0\x80\n",
        [r"\xed\xa0\xbd\xed\xb8\x80 \xed\xa0\x80"],
    ),
    "one bad line among good ones": (
        "é\n".encode() + b"\xff\n" + "😀\n".encode(),
        ["é", r"\xff", "😀"],
    ),
    "CR LF": (b"a\r\n\r\nb\r\n", ["a", "", "b"]),
    "CR elsewhere": (b"a\rb\r\r\n\rc\n\r", ["a\rb\r", "\rc", "\r"]),
    "blank lines": (b"\n\na\n\n", ["", "", "a", ""]),
    "leading and trailing blanks": (b"  a\t \n \n\t\n", ["  a\t ", " ", "\t"]),
    "no newline at the end": (b"a\nb", ["a", "b"]),
    "nothing": (b"", []),
}


@pytest.mark.long
@pytest.mark.parametrize(("text", "lines"), CASES.values(), ids=CASES.keys())
def test_text_arrives_as_it_is(
    text: bytes, lines: list[str], collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", collector.endpoint)
    result = shipper.finish(text)
    sent = collector.receive(len(lines))
    assert [strict_json(message)["message"] for message in sent] == lines
    assert sent == [as_event(line, shipper.pid) for line in lines]
    assert (result.status, result.processed, result.stderr) == (0, len(lines), "")


def test_a_line_arrives_whole_wherever_its_bytes_are_cut(collector: Collector, ship: Ship) -> None:
    """Inside a character, inside a line end, before it: each part is in a read of its own."""
    shipper = ship("-c", collector.endpoint)
    lines = [f"{character}x\r\n".encode() for character in "é€😀"] + [b"a\r\n", b"a\rb\n", b"a\\\n"]
    for line in lines:
        for cut in range(1, len(line)):
            shipper.write(line[:cut])
            wait_until_pipe_is_empty(shipper)
            shipper.write(line[cut:])
            text = line.decode().rstrip("\r\n")
            assert collector.receive(1) == [as_event(text, shipper.pid)], (line, cut)


def test_a_cr_that_the_input_ends_with_is_kept(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint)
    shipper.write(b"a\r")
    wait_until_pipe_is_empty(shipper)
    assert shipper.finish().processed == 1
    assert collector.texts(1) == ["a\r"]


# ---- much of it -------------------------------------------------------------------------------


@pytest.mark.long
def test_a_line_of_100_mb_arrives_in_pieces_cut_between_characters(
    collector: Collector, ship: Ship
) -> None:
    line = "€".encode() * (100_000_000 // 3)
    piece = MEBIBYTE // 3 * 3
    shipper = ship("-c", collector.endpoint)
    shipper.write(line + b"\nafter\n")
    *texts, after = collector.texts(len(line) // piece + 2)
    assert after == "after"
    assert {len(text.encode()) for text in texts[:-1]} == {piece}
    assert "".join(texts).encode() == line
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, len(texts) + 1, WARNING)


@pytest.mark.long
def test_a_line_of_100_mb_is_one_message_without_a_limit(collector: Collector, ship: Ship) -> None:
    line = b"x" * 100_000_000
    shipper = ship("-c", collector.endpoint, "--max-line", "0")
    shipper.write(line)
    shipper.end_input()
    (message,) = collector.receive(1)
    assert message == as_event("", shipper.pid).replace(b'""', b'"%b"' % line, 1)
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 1, "")


def test_many_long_lines_are_one_warning(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint, "--max-line", "4")
    shipper.write(b"abcdefgh\nabcd\r\n")
    assert collector.texts(3) == ["abcd", "efgh", "abcd"]
    result = shipper.finish("€€\n".encode())
    assert collector.texts(2) == ["€", "€"]
    assert (result.processed, result.stderr) == (5, WARNING)


@pytest.mark.long
def test_a_million_empty_lines_are_a_million_events(ship: Ship) -> None:
    count = 1_000_000
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        pull.setsockopt(zmq.RCVHWM, 0)
        pull.bind("tcp://127.0.0.1:*")
        shipper = ship("-c", pull.get_string(zmq.LAST_ENDPOINT))
        shipper.write(b"\n" * count)
        shipper.end_input()
        assert {pull.recv() for _ in range(count)} == {as_event("", shipper.pid)}
        result = shipper.finish()
        assert (result.status, result.processed) == (0, count)
        assert not pull.poll(0)


# ---- options that make the event --------------------------------------------------------------


def test_a_batch_takes_what_is_there_and_never_waits_for_more(
    collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", collector.endpoint, "--batch", "500")
    for text in ("first", "second"):
        shipper.write(text.encode() + b"\n")
        assert collector.receive(1) == [b"[" + as_event(text, shipper.pid) + b"]"]
    numbers = [str(number) for number in range(1200)]
    shipper.write("".join(number + "\n" for number in numbers).encode())
    arrays = [strict_json(message) for message in collector.receive(3)]
    assert [len(array) for array in arrays] == [500, 500, 200]
    assert [entry["message"] for array in arrays for entry in array] == numbers
    result = shipper.finish()
    assert result.processed == 1202, "events, not arrays"


def test_format_json_splices_an_object_and_sends_any_other_line_as_a_message(
    collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", collector.endpoint, "--format", "json", "-f", "host=a", "app")
    shipper.finish(b'{"a": 1.0}\r\n{"host":"b","type":"c","@pid":1}\n{"a":NaN}\n\n{}')
    spliced = b'"type":"app","@pid":%d,"host":"a"}' % shipper.pid
    assert collector.receive(5) == [
        b'{"a": 1.0,' + spliced,
        b'{"host":"b","type":"c","@pid":1}',
        b'{"message":"{\\"a\\":NaN}",' + spliced,
        b'{"message":"",' + spliced,
        b"{" + spliced,
    ]


def test_format_raw_is_the_line_itself(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint, "--format", "raw")
    result = shipper.finish(b'"\\\n\nnot \xff UTF-8\0\n \r\n\n{"a":1}\n\n')
    assert collector.receive(7) == [b'"\\', b"", b"not \xff UTF-8\0", b" ", b"", b'{"a":1}', b""]
    assert (result.status, result.processed) == (0, 7)


@pytest.mark.long
def test_empty_raw_lines_keep_their_place_behind_a_slow_collector(
    collect: Callable[..., Collector], ship: Ship
) -> None:
    collector = collect(RCVHWM=1, RCVBUF=4096)
    shipper = ship("-c", collector.endpoint, "--format", "raw", "--sndhwm", "1")
    numbered = [b"%d" % number + b" " * 5000 for number in range(2000)]
    lines = [line for number in numbered for line in (number, b"", b"")]
    shipper.write(b"".join(line + b"\n" for line in lines))
    wait_until_pipe_is_empty(shipper)
    assert ask_counters(shipper).waiting > 0
    assert collector.receive(len(lines)) == lines
    assert shipper.finish().processed == len(lines)


def test_a_timestamp_tells_when_each_line_was_read_not_when_it_was_sent(
    collect: Callable[..., Collector], ship: Ship, tmp_path: Path
) -> None:
    """All wait for a collector, and are sent together."""
    endpoint = f"ipc://{tmp_path}/collector"
    shipper = ship("-c", endpoint, "--timestamp", "-f", "host=a")
    wait_until_acts_on(shipper.pid, signal.SIGUSR1)
    read_between = []
    for number in range(1, 5):
        since_ms = now_ms()
        shipper.write(b"%d\n" % number)
        wait_until_counted(shipper, number)
        until_ms = now_ms()
        read_between.append((since_ms, until_ms))
        wait_until_later(until_ms + 20)
    for event, (since_ms, until_ms) in zip(collect(endpoint).events(4), read_between):
        assert list(event) == ["message", "type", "@pid", "@timestamp", "host"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["@timestamp"])
        read_at = datetime.strptime(event["@timestamp"], "%Y-%m-%dT%H:%M:%S.%f%z")
        assert since_ms <= round(read_at.timestamp() * 1000) <= until_ms


@pytest.mark.parametrize("locale", ["", "LC_ALL=C", "LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0"])
def test_type_and_fields_are_text_whatever_bytes_the_arguments_are(
    locale: str, collector: Collector, ship: Ship
) -> None:
    variables = dict(assignment.split("=") for assignment in locale.split())
    arguments = ['a"\\é\xff', 'h"=é=😀\t', "raw=\udcff\udce9", "empty="]
    logtype, *fields = arguments
    words = [word for field in fields for word in ("-f", field)]
    shipper = ship("-c", collector.endpoint, *words, logtype, env={**os.environ, **variables})
    shipper.finish(b"x\n")
    (told,) = collector.events(1)
    assert list(told.items()) == [
        ("message", "x"),
        ("type", 'a"\\é\xff'),
        ("@pid", shipper.pid),
        ('h"', "é=😀\t"),
        ("raw", r"\xff\xe9"),
        ("empty", ""),
    ]

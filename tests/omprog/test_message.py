"""Each message is one event and has one answer; stdout carries nothing else."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.omprog.helpers import BEGIN, COMMIT, Dialogue, numbered, processed, texts
from tests.support.aliases import Ship
from tests.support.collector import Collector, strict_json

# ---- ready ------------------------------------------------------------------------------------


def test_ok_says_that_it_is_ready_and_nothing_else_is_said_until_it_is_asked(
    dialogue: Callable[..., Dialogue], endpoint: str
) -> None:
    rsyslog = dialogue("--connect", endpoint)
    assert rsyslog.says_nothing()
    assert processed(rsyslog.finish()) == 0


@pytest.mark.parametrize(
    "arguments",
    [["--connect", "nowhere"], ["--bind", "{taken}"], ["--spool", "/dev/null/spool"]],
    ids=["endpoint", "address in use", "directory"],
)
def test_what_cannot_work_is_not_ready(
    arguments: list[str], collector: Collector, ship: Ship
) -> None:
    taken = [argument.format(taken=collector.endpoint) for argument in arguments]
    result = ship("--omprog", *taken).finish(b"")
    assert (result.status, result.stdout) == (2, "")
    assert re.fullmatch(r"zmqpush\.py: .+\n", result.stderr)


# ---- a message --------------------------------------------------------------------------------

MESSAGES = {  # and their texts
    b"": "",
    b"  blanks before and after  ": "  blanks before and after  ",
    b'say "hi" \\ and \\n': 'say "hi" \\ and \\n',
    b"tab\tescape\x1b bell\x07 delete\x7f nul\0": "tab\tescape\x1b bell\x07 delete\x7f nul\0",
    "é € 😀 line\u2028separator".encode(): "é € 😀 line\u2028separator",
    b"not UTF-8: \xff\xc3(\nnor: \xed": "not UTF-8: \\xff\\xc3(\nnor: \\xed",
    b'{"message": "a line that is JSON"}': '{"message": "a line that is JSON"}',
    b"one\ntwo\n\nfour": "one\ntwo\n\nfour",
    b"\nbetween line ends\n": "\nbetween line ends\n",
    b"\n\n\n": "\n\n\n",
    b"ended by CR LF\r": "ended by CR LF",
    b"one\r\ntwo\r": "one\r\ntwo",
    b"\r": "",
    b"OK": "OK",
}


def test_each_message_is_one_event_and_has_one_answer_whatever_is_in_it(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint)
    for message, text in MESSAGES.items():
        assert rsyslog.ask(message) == "OK"
        assert collector.texts(1) == [text]
    assert collector.is_silent()
    assert processed(rsyslog.finish()) == len(MESSAGES)


def test_message_of_many_lines_and_more_than_a_pipe_holds_by_default_is_one_event(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint)
    for size in (70_000, 200_000, 262_144, 262_145, 400_000):
        message = b"".join(b"%06d\n" % number for number in range(size // 7 + 1))[:size]
        assert rsyslog.ask(message) == "OK"
        assert collector.texts(1) == [message.decode()]
    assert processed(rsyslog.finish()) == 5


def test_message_is_answered_when_its_line_end_has_come(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    """rsyslog writes the marks of a transaction in two parts, too: the mark, and the line end."""
    rsyslog = dialogue("--connect", collector.endpoint, "--omprog-transactions")
    for parts, expected in (
        ([BEGIN, b"\n"], "OK"),
        ([b"a li", b"ne\nand a", b" second", b"\n"], "DEFER_COMMIT"),
        ([b"COMMIT ", b"TRANSACTION", b"\n"], "OK"),
    ):
        for part in parts[:-1]:
            rsyslog.tell(part)
            rsyslog.wait_until_read()
            assert rsyslog.says_nothing(0.05)
        rsyslog.tell(parts[-1])
        assert rsyslog.answer() == expected
    assert collector.texts(1) == ["a line\nand a second"]
    assert processed(rsyslog.finish()) == 1


def test_message_over_max_line_arrives_in_pieces_and_has_one_answer(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, "--max-line", "10")
    assert rsyslog.ask("éééééé\nééé, and so on".encode()) == "OK"
    pieces = collector.texts(3)
    assert "".join(pieces) == "éééééé\nééé, and so on"
    assert max(len(piece.encode()) for piece in pieces) <= 10
    assert rsyslog.ask(b"next") == "OK"
    assert collector.texts(1) == ["next"]
    assert processed(rsyslog.finish()) == 4


def test_raw_message_arrives_as_it_is(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, "--format", "raw")
    assert rsyslog.ask_all([b"one\n\ntwo \xff\n", b"", b"three"]) == {"OK"}
    assert collector.receive(3) == [b"one\n\ntwo \xff\n", b"", b"three"]
    assert processed(rsyslog.finish()) == 3


def test_json_object_that_is_spread_over_lines_keeps_its_text_and_gets_what_it_lacks(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, "--format", "json", "--field", "b=new")
    objects = b'{"a": [1,\n  2],\n "b": "old"}', b"{\n}", b'{"a": 1}\n{"b": 2}'
    assert rsyslog.ask_all(list(objects)) == {"OK"}
    pid = rsyslog.shipper.pid
    first, second, third = collector.receive(3)
    assert first.startswith(objects[0][:-1])
    assert strict_json(first) == {"a": [1, 2], "b": "old", "type": "syslog", "@pid": pid}
    assert strict_json(second) == {"type": "syslog", "@pid": pid, "b": "new"}
    assert strict_json(third)["message"] == objects[2].decode()  # two objects are none
    assert processed(rsyslog.finish()) == 3


def test_batch_makes_an_array_of_each_message(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, "--batch", "500", "--omprog-transactions")
    messages = numbered(4)
    rsyslog.begin(messages)
    assert rsyslog.ask(COMMIT) == "OK"
    arrays = [strict_json(array) for array in collector.receive(4)]
    assert [[event["message"] for event in array] for array in arrays] == [
        [text] for text in texts(messages)
    ]
    assert processed(rsyslog.finish()) == 4


def test_timestamp_is_when_the_message_came(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, "--timestamp")
    for message in numbered(3):
        before = datetime.now(timezone.utc) - timedelta(milliseconds=1)
        assert rsyslog.ask(message) == "OK"
        after = datetime.now(timezone.utc)
        (event,) = collector.events(1)
        stamp = datetime.strptime(event["@timestamp"], "%Y-%m-%dT%H:%M:%S.%f%z")
        assert before <= stamp <= after
    assert processed(rsyslog.finish()) == 3


def test_counters_go_to_stderr(dialogue: Callable[..., Dialogue], collector: Collector) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, "--stats", "3600")
    assert rsyslog.ask_all(numbered(7)) == {"OK"}
    rsyslog.shipper.signal(signal.SIGUSR1)
    said = rsyslog.shipper.read_stderr_line()
    assert ": 7 messages read, 7 handed over, 0 waiting" in said
    assert rsyslog.ask(b"x") == "OK"
    assert processed(rsyslog.finish()) == 8


def test_file_is_one_message_and_ends(tmp_path: Path, collector: Collector, ship: Ship) -> None:
    (tmp_path / "file").write_bytes(b"one\ntwo\n")
    with open(tmp_path / "file", "rb") as file:
        result = ship("--omprog", "-c", collector.endpoint, stdin=file).finish()
    assert (result.status, result.stdout.splitlines()[:2]) == (0, ["OK", "OK"])
    assert collector.texts(1) == ["one\ntwo"]


def test_half_a_message_that_waits_is_told_once(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    """rsyslog's template lacks its line end: then no message ever ends."""
    rsyslog = dialogue("--connect", collector.endpoint)
    rsyslog.tell(b"no end")
    assert rsyslog.shipper.read_stderr_line() == (
        "zmqpush.py: 6 bytes have waited for the end of a message for 3 s: "
        'does rsyslog\'s template end with "\\n"?\n'
    )
    rsyslog.tell(b" yet\n")
    assert rsyslog.answer() == "OK"
    assert collector.texts(1) == ["no end yet"]
    rsyslog.tell(b"again")
    result = rsyslog.finish()
    assert "waited" not in result.stderr

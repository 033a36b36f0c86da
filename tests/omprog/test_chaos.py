"""The answers that rsyslog asks for: what is said to be safe is safe, and stdout carries no more.

First the dialogue alone: the test holds both pipes and writes as rsyslog does, a message at once.
Then real rsyslogds, whose programs are killed.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import itertools
import json
import os
import random
import re
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.support.collector import Collector, strict_json
from tests.support.net import free_endpoint
from tests.support.programs import TOP, Result, Shipper
from tests.support.rsyslog import TEMPLATE, Receiver, Rsyslogd, install_program
from tests.support.waiting import DEADLINE_S, wait_until

Ship = Callable[..., Shipper]
Collect = Callable[..., Collector]

BEGIN, COMMIT = b"BEGIN TRANSACTION", b"COMMIT TRANSACTION"  # rsyslog's defaults
DOT_EVERY_S = 2.0
ENDS_AFTER_SIGNAL_S = 4.0  # it is 2.5; rsyslogd and systemd have more patience
BOTH_WAYS = pytest.mark.parametrize("transactions", [False, True], ids=["single", "transactions"])


class Dialogue:
    """rsyslog's side: it writes a message, waits for the answer, and writes the next."""

    def __init__(self, shipper: Shipper) -> None:
        self.shipper = shipper
        self._said = b""  # of an answer that is not whole

    @property
    def _stdin(self) -> int:
        assert self.shipper.process.stdin
        return self.shipper.process.stdin.fileno()

    @property
    def _stdout(self) -> int:
        assert self.shipper.process.stdout
        return self.shipper.process.stdout.fileno()

    def tell(self, data: bytes) -> None:
        """Write `data` with one write(2)."""
        assert os.write(self._stdin, data) == len(data)

    def answer(self, deadline_s: float = DEADLINE_S) -> str:
        """The answer, one line with nothing behind it."""
        ends_at = time.monotonic() + deadline_s
        while not self._said.endswith(b"\n"):
            assert not self.says_nothing(ends_at - time.monotonic()), f"no answer: {self._said!r}"
            data = os.read(self._stdout, 65536)
            assert data, f"the end of stdout, and no answer: {self._said!r}"
            self._said += data
        answer, self._said = self._said[:-1].decode(), b""
        assert "\n" not in answer, "more than one answer"
        return answer

    def ask(self, message: bytes) -> str:
        """Write `message` and its line end; the answer, without the dots before it."""
        self.tell(message + b"\n")
        return self.answer().lstrip(".")

    def ask_all(self, messages: list[bytes]) -> set[str]:
        """The answers to `messages`, one after the other."""
        return {self.ask(message) for message in messages}

    def says_nothing(self, for_s: float = 0.3) -> bool:
        """Whether it is silent for so long."""
        return not select.select([self._stdout], [], [], max(for_s, 0))[0]

    def wait_for_dot(self) -> None:
        """Wait for the sign that it is still at work."""
        assert not self.says_nothing(DEADLINE_S), "no dot"
        data = os.read(self._stdout, 1)
        assert data == b"."
        self._said += data

    def wait_until_read(self) -> None:
        """Wait until what was written has been read."""

        def held() -> bytes:  # an int (pipe(7))
            return fcntl.ioctl(self._stdin, termios.FIONREAD, bytes(4))

        wait_until(lambda: not any(held()), "the pipe is empty")

    def hang_up(self) -> None:
        """Close both pipes, as rsyslog does to end a program."""
        self.close_stdout()
        self.shipper.end_input()

    def close_stdout(self) -> None:
        process = self.shipper.process
        assert process.stdout
        process.stdout.close()
        process.stdout = None

    def kill(self) -> None:
        """Kill it with -9; nothing but answers was on stdout."""
        self.shipper.process.kill()
        self.shipper.process.wait()
        self.check_rest()

    def check_rest(self) -> None:
        """Nothing is left on the stdout of a process that has ended."""
        stdout = self.shipper.process.stdout
        if stdout and not stdout.closed:
            assert os.read(stdout.fileno(), 65536).strip(b".") == b""

    def finish(self, deadline_s: float = DEADLINE_S) -> Result:
        """End its input, wait for its end."""
        result = self.shipper.finish(deadline_s=deadline_s)
        assert result.stdout.strip(".") == ""
        return result


def processed(result: Result) -> int:
    """The count in the summary of one that ended well: on stderr, which has nothing else."""
    assert result.status == 0, result.stderr
    summary = re.fullmatch(
        r"Processed (\d+) messages in \d+\.\d{4}ms\. Tagged with @pid:(\d+)\n", result.stderr
    )
    assert summary, result.stderr
    assert int(summary[2]) == result.pid
    return int(summary[1])


def numbered(count: int, start: int = 0) -> list[bytes]:
    """Messages; some have line ends inside."""
    return [
        b"%06d" % number + b"\n and\n\nmore" * (number % 3 == 1)
        for number in range(start, start + count)
    ]


def texts(messages: list[bytes]) -> list[str]:
    return [message.decode() for message in messages]


@pytest.fixture
def dialogue(ship: Ship) -> Iterator[Callable[..., Dialogue]]:
    """Starts shippers and waits until they are ready; looks at the end what stdout had on it."""
    dialogues = []

    def start(*arguments: str, **popen: str) -> Dialogue:
        dialogue = Dialogue(ship(*arguments, "--omprog", **popen))
        dialogues.append(dialogue)
        assert dialogue.answer() == "OK"
        return dialogue

    yield start
    for dialogue in dialogues:
        if dialogue.shipper.process.poll() is None:
            dialogue.kill()
        dialogue.check_rest()


@pytest.fixture
def nobody() -> str:
    """An endpoint at which no collector is, yet."""
    return free_endpoint()


@pytest.fixture
def spool(tmp_path: Path) -> str:
    return str(tmp_path / "spool")


def sent_by_the_next_start(
    ship: Ship, collect: Collect, endpoint: str, spool: str, count: int
) -> list[str]:
    """The texts that a shipper with nothing to read sends; so many, and no more."""
    collector = collect(endpoint)
    result = ship("--connect", endpoint, "--spool", spool).finish(b"")
    assert (result.status, result.stderr) == (0, "")
    assert result.processed == count
    return collector.texts(count)


# ---- ready ------------------------------------------------------------------------------------


def test_ok_says_that_it_is_ready_and_nothing_else_is_said_until_it_is_asked(
    dialogue: Callable[..., Dialogue], nobody: str
) -> None:
    rsyslog = dialogue("--connect", nobody)
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
    assert rsyslog.ask(BEGIN) == "OK"
    assert rsyslog.ask_all(messages) == {"DEFER_COMMIT"}
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


# ---- when it is safe --------------------------------------------------------------------------


def test_no_ok_before_a_collector_has_come_but_dots(
    dialogue: Callable[..., Dialogue], nobody: str, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", nobody)
    asked_at = time.monotonic()
    rsyslog.tell(b"x\n")
    rsyslog.wait_for_dot()
    assert DOT_EVERY_S - 0.1 < time.monotonic() - asked_at < 2 * DOT_EVERY_S
    assert rsyslog.says_nothing()
    collector = collect(nobody)
    assert re.fullmatch(r"\.+OK", rsyslog.answer())
    assert rsyslog.ask(b"y") == "OK"  # and no dot is left over
    assert collector.texts(2) == ["x", "y"]
    assert processed(rsyslog.finish()) == 2


def test_spool_is_safe_though_no_collector_is_there_and_a_kill_comes(
    dialogue: Callable[..., Dialogue], nobody: str, spool: str, ship: Ship, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", nobody, "--spool", spool)
    messages = numbered(30)
    assert rsyslog.ask_all(messages) == {"OK"}
    rsyslog.kill()
    assert sent_by_the_next_start(ship, collect, nobody, spool, 30) == texts(messages)


def test_spool_is_safe_when_a_kill_comes_as_soon_as_ok_was_said(
    dialogue: Callable[..., Dialogue], collector: Collector, spool: str, ship: Ship
) -> None:
    """With a collector at hand, the next start may send it again: libzmq does not tell."""
    arguments = "--connect", collector.endpoint, "--spool", spool
    messages = numbered(5)
    for message in messages:
        rsyslog = dialogue(*arguments)
        assert rsyslog.ask(message) == "OK"
        rsyslog.kill()
    result = ship(*arguments).finish(b"")
    assert (result.status, result.stderr) == (0, "")
    came = collector.texts(len(messages))
    while not collector.is_silent():
        came += collector.texts(1)
    assert set(came) == set(texts(messages))


def test_transaction_larger_than_the_spool_may_be_is_sent_before_its_end(
    dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    arguments = ["--omprog-transactions", "--spool", spool, "--spool-limit", "1k"]
    rsyslog = dialogue("--connect", collector.endpoint, *arguments)
    messages = [b"%0100d" % number for number in range(50)]
    assert rsyslog.ask(BEGIN) == "OK"
    assert rsyslog.ask_all(messages) == {"DEFER_COMMIT"}
    assert rsyslog.ask(COMMIT) == "OK"
    assert collector.texts(50) == texts(messages)


def test_file_is_one_message_and_ends(tmp_path: Path, collector: Collector, ship: Ship) -> None:
    (tmp_path / "file").write_bytes(b"one\ntwo\n")
    with open(tmp_path / "file", "rb") as file:
        result = ship("--omprog", "-c", collector.endpoint, stdin=file).finish()
    assert (result.status, result.stdout.splitlines()[:2]) == (0, ["OK", "OK"])
    assert collector.texts(1) == ["one\ntwo"]


@pytest.mark.parametrize(
    "limit", [["--queue-limit", "1k", "--omprog-transactions"], ["--spool-limit", "1k"]]
)
def test_what_is_over_the_limit_is_answered_when_there_is_room(
    limit: list[str],
    dialogue: Callable[..., Dialogue],
    nobody: str,
    spool: str,
    collect: Collect,
) -> None:
    spooled = ["--spool", spool] if "--spool-limit" in limit else []
    rsyslog = dialogue("--connect", nobody, *limit, *spooled)
    answer = "OK"
    if not spooled:
        assert rsyslog.ask(BEGIN) == "OK"
        answer = "DEFER_COMMIT"
    messages = [b"%0100d" % number for number in range(50)]
    for asked in itertools.count(1):
        rsyslog.tell(messages[asked - 1] + b"\n")
        if rsyslog.says_nothing():
            break
        assert rsyslog.answer() == answer
    assert 1 < asked <= 11
    collector = collect(nobody)
    assert rsyslog.answer().lstrip(".") == answer
    assert collector.texts(asked) == texts(messages[:asked])
    assert processed(rsyslog.finish()) == asked


class SmallDisk:
    """A directory in memory of 12 MB, and a Python for those who are to see it as that."""

    SIZE = "12M"

    def __init__(self, folder: Path) -> None:
        if os.geteuid() or not shutil.which("unshare"):
            pytest.skip("a small disk needs root and a mount namespace")
        self.path = folder / "disk"
        self.path.mkdir()
        self.python = str(folder / "python")
        mount = f"mount -t tmpfs -o size={self.SIZE} tmpfs {shlex.quote(str(self.path))}"
        within = shlex.quote(f'{mount} && exec "$@"')
        with open(self.python, "w") as file:
            file.write(f'#!/bin/sh\nexec unshare --mount sh -c {within} sh {sys.executable} "$@"\n')
        os.chmod(self.python, 0o755)

    def _ballast(self, pid: int) -> Path:
        return Path(f"/proc/{pid}/root{self.path}/ballast")

    def fill(self, pid: int) -> None:
        """Leave no room on the disk that `pid` sees."""
        with open(self._ballast(pid), "wb") as file:
            free = os.statvfs(file.fileno())
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)

    def make_room(self, pid: int) -> None:
        self._ballast(pid).unlink()


@pytest.mark.long
@BOTH_WAYS
def test_full_disk_is_an_error_and_when_there_is_room_the_same_message_is_taken(
    transactions: bool,
    dialogue: Callable[..., Dialogue],
    nobody: str,
    tmp_path: Path,
    collect: Collect,
) -> None:
    disk = SmallDisk(tmp_path)
    arguments = ["--connect", nobody, "--spool", str(disk.path / "spool")]
    arguments += ["--omprog-transactions"] * transactions
    rsyslog = dialogue(*arguments, executable=disk.python)
    taken = "DEFER_COMMIT" if transactions else "OK"
    begin, commit = ([BEGIN], [COMMIT]) if transactions else ([], [])
    messages = numbered(9)
    assert rsyslog.ask_all(begin) <= {"OK"}
    assert rsyslog.ask_all(messages[:3]) == {taken}

    disk.fill(rsyslog.shipper.pid)
    for _ in range(3):
        refusal = rsyslog.ask(messages[3]).lstrip(".")
        assert refusal not in ("", "OK", "DEFER_COMMIT", "PREVIOUS_COMMITTED")
        assert "No space left" in refusal
        assert rsyslog.ask_all(begin) <= {"OK"}  # rsyslog begins anew with what was refused
    assert rsyslog.shipper.process.poll() is None

    disk.make_room(rsyslog.shipper.pid)
    assert rsyslog.ask_all(messages[3:]) == {taken}
    assert rsyslog.ask_all(commit) <= {"OK"}
    collector = collect(nobody)
    assert collector.texts(9) == texts(messages)
    result = rsyslog.finish()
    assert collector.is_silent()
    assert result.status == 0
    assert "Traceback" not in result.stderr


@pytest.mark.long
@BOTH_WAYS
def test_ok_means_on_disk_and_in_place_even_if_the_directory_was_removed(
    transactions: bool,
    dialogue: Callable[..., Dialogue],
    nobody: str,
    spool: str,
    ship: Ship,
    collect: Collect,
) -> None:
    arguments = ["--connect", nobody, "--spool", spool]
    rsyslog = dialogue(*arguments, *["--omprog-transactions"] * transactions)
    taken = "DEFER_COMMIT" if transactions else "OK"
    begin, commit = ([BEGIN], [COMMIT]) if transactions else ([], [])
    messages = numbered(6)
    assert rsyslog.ask_all(begin) <= {"OK"}
    assert rsyslog.ask_all(messages[:3]) == {taken}
    shutil.rmtree(spool)
    assert rsyslog.ask_all(messages[3:]) == {taken}
    assert rsyslog.ask_all(commit) <= {"OK"}
    rsyslog.kill()
    assert sent_by_the_next_start(ship, collect, nobody, spool, 6) == texts(messages)


# ---- transactions -----------------------------------------------------------------------------

WITH_AND_WITHOUT_SPOOL = pytest.mark.parametrize("spooled", [False, True], ids=["memory", "spool"])


@pytest.mark.long
@WITH_AND_WITHOUT_SPOOL
def test_transaction_has_the_answers_that_rsyslog_expects(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    arguments = ["--connect", collector.endpoint, "--omprog-transactions"]
    rsyslog = dialogue(*arguments, *["--spool", spool] * spooled)
    for start in (0, 10):
        messages = numbered(10, start)
        assert rsyslog.ask(BEGIN) == "OK"
        assert rsyslog.ask_all(messages) == {"DEFER_COMMIT"}
        assert rsyslog.ask(COMMIT) == "OK"
        assert collector.texts(10) == texts(messages)
    assert rsyslog.ask_all([BEGIN, COMMIT]) == {"OK"}  # an empty one
    assert collector.is_silent()
    assert processed(rsyslog.finish()) == 20


def test_marks_are_messages_where_transactions_are_not_used(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint)
    assert rsyslog.ask_all([BEGIN, b"x", COMMIT]) == {"OK"}
    assert collector.texts(3) == [BEGIN.decode(), "x", COMMIT.decode()]
    assert processed(rsyslog.finish()) == 3


def test_only_a_mark_and_nothing_else_is_a_mark(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, "--omprog-transactions")
    messages = [
        BEGIN + b"\n" + COMMIT,
        b" " + COMMIT,
        COMMIT + b".",
        COMMIT.lower(),
        COMMIT + COMMIT,
    ]
    assert rsyslog.ask(BEGIN) == "OK"
    assert rsyslog.ask_all(messages) == {"DEFER_COMMIT"}
    assert rsyslog.ask(COMMIT) == "OK"
    assert collector.texts(len(messages)) == texts(messages)
    assert processed(rsyslog.finish()) == len(messages)


def test_marks_can_be_others(dialogue: Callable[..., Dialogue], collector: Collector) -> None:
    marks = "--omprog-begin", "<< é", "--omprog-commit", ">>"
    rsyslog = dialogue("--connect", collector.endpoint, "--omprog-transactions", *marks)
    assert rsyslog.ask("<< é".encode()) == "OK"
    assert rsyslog.ask_all([BEGIN, b"x", COMMIT]) == {"DEFER_COMMIT"}
    assert rsyslog.ask(b">>") == "OK"
    assert collector.texts(3) == [BEGIN.decode(), "x", COMMIT.decode()]
    assert processed(rsyslog.finish()) == 3


def test_message_outside_of_a_transaction_is_answered_when_it_is_safe(
    dialogue: Callable[..., Dialogue], nobody: str, spool: str, ship: Ship, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", nobody, "--omprog-transactions", "--spool", spool)
    assert rsyslog.ask_all([b"before"]) == {"OK"}
    assert rsyslog.ask_all([BEGIN, COMMIT]) == {"OK"}
    assert rsyslog.ask_all([b"after"]) == {"OK"}
    rsyslog.kill()
    assert sent_by_the_next_start(ship, collect, nobody, spool, 2) == ["before", "after"]


@WITH_AND_WITHOUT_SPOOL
def test_second_begin_drops_nothing_of_what_was_answered(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    """rsyslog begins anew when a line, or the commit, was refused."""
    arguments = ["--connect", collector.endpoint, "--omprog-transactions"]
    rsyslog = dialogue(*arguments, *["--spool", spool] * spooled)
    messages = numbered(9)
    for start in (0, 3, 6):
        assert rsyslog.ask(BEGIN) == "OK"
        assert rsyslog.ask_all(messages[start : start + 3]) == {"DEFER_COMMIT"}
    assert rsyslog.ask(COMMIT) == "OK"
    assert collector.texts(9) == texts(messages)
    assert processed(rsyslog.finish()) == 9


@WITH_AND_WITHOUT_SPOOL
def test_end_of_input_in_a_transaction_drops_nothing_of_what_was_answered(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    arguments = ["--connect", collector.endpoint, "--omprog-transactions"]
    rsyslog = dialogue(*arguments, *["--spool", spool] * spooled)
    messages = numbered(5)
    assert rsyslog.ask(BEGIN) == "OK"
    assert rsyslog.ask_all(messages) == {"DEFER_COMMIT"}
    assert processed(rsyslog.finish()) == 5
    assert collector.texts(5) == texts(messages)


def test_end_of_input_in_a_transaction_keeps_it_in_the_spool_for_the_next_start(
    dialogue: Callable[..., Dialogue], nobody: str, spool: str, ship: Ship, collect: Collect
) -> None:
    arguments = "--connect", nobody, "--spool", spool, "--omprog-transactions", "--linger", "0"
    rsyslog = dialogue(*arguments)
    messages = numbered(5)
    assert rsyslog.ask(BEGIN) == "OK"
    assert rsyslog.ask_all(messages) == {"DEFER_COMMIT"}
    result = rsyslog.finish()
    assert result.status == 0
    assert "5 messages wait in" in result.stderr
    assert sent_by_the_next_start(ship, collect, nobody, spool, 5) == texts(messages)


@pytest.mark.long
def test_kill_in_a_transaction_drops_nothing_of_what_was_answered(
    dialogue: Callable[..., Dialogue], nobody: str, spool: str, ship: Ship, collect: Collect
) -> None:
    """rsyslog 8.2302 does not send it again."""
    messages = numbered(20)
    for answered in (1, 2, 7):  # lines of a transaction before the kill
        rsyslog = dialogue("--connect", nobody, "--spool", spool, "--omprog-transactions")
        assert rsyslog.ask(BEGIN) == "OK"
        assert rsyslog.ask_all(messages[:2]) == {"DEFER_COMMIT"}
        assert rsyslog.ask_all([COMMIT, BEGIN]) == {"OK"}
        assert rsyslog.ask_all(messages[2 : 2 + answered]) == {"DEFER_COMMIT"}
        rsyslog.kill()
        del messages[: 2 + answered]
    sent = sent_by_the_next_start(ship, collect, nobody, spool, 16)
    assert sent == texts(numbered(16))


def test_commit_without_a_spool_is_answered_when_all_lines_were_taken(
    dialogue: Callable[..., Dialogue], nobody: str, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", nobody, "--omprog-transactions", "--sndhwm", "1")
    messages = numbered(50)
    assert rsyslog.ask(BEGIN) == "OK"
    assert rsyslog.ask_all(messages) == {"DEFER_COMMIT"}
    rsyslog.tell(COMMIT + b"\n")
    assert rsyslog.says_nothing()
    collector = collect(nobody)
    assert rsyslog.answer().lstrip(".") == "OK"
    rsyslog.kill()  # what libzmq has is lost with it: up to SNDHWM and the connection's buffers
    assert collector.texts(1) == texts(messages[:1])


# ---- the end ----------------------------------------------------------------------------------


def test_closed_stdout_is_a_clean_end(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint)
    assert rsyslog.ask(b"heard") == "OK"
    rsyslog.close_stdout()
    rsyslog.tell(b"not heard\n")
    rsyslog.shipper.process.wait(DEADLINE_S)  # though its input goes on
    assert processed(rsyslog.finish()) == 2
    assert collector.texts(2) == ["heard", "not heard"]


@pytest.mark.long
@WITH_AND_WITHOUT_SPOOL
def test_rsyslogs_death_while_nothing_waits_is_a_clean_end(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, *["--spool", spool] * spooled)
    assert rsyslog.ask_all(numbered(5)) == {"OK"}
    rsyslog.hang_up()
    assert processed(rsyslog.finish()) == 5
    assert collector.texts(5) == texts(numbered(5))


@pytest.mark.long
def test_rsyslogs_death_while_a_message_waits_for_a_collector_is_a_clean_end(
    dialogue: Callable[..., Dialogue], nobody: str
) -> None:
    """rsyslog has the message, and gives it to the next program: we need not wait with it."""
    rsyslog = dialogue("--connect", nobody)
    rsyslog.tell(b"x\n")
    rsyslog.wait_until_read()
    rsyslog.hang_up()
    # That nobody listens any more it may not know before it has a dot to write.
    assert processed(rsyslog.finish(DOT_EVERY_S + 2)) == 0


def test_message_that_waits_when_the_input_ends_is_answered_when_a_collector_comes(
    dialogue: Callable[..., Dialogue], nobody: str, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", nobody)
    rsyslog.tell(b"x\n")
    rsyslog.wait_until_read()
    rsyslog.shipper.end_input()
    assert rsyslog.says_nothing()
    collector = collect(nobody)
    assert rsyslog.answer().lstrip(".") == "OK"
    assert collector.texts(1) == ["x"]
    assert processed(rsyslog.finish()) == 1


@WITH_AND_WITHOUT_SPOOL
def test_message_without_its_end_was_not_answered_and_is_not_sent(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, *["--spool", spool] * spooled)
    assert rsyslog.ask(b"whole") == "OK"
    rsyslog.tell(b"a line\nand a half")
    rsyslog.wait_until_read()
    assert processed(rsyslog.finish()) == 1
    assert collector.texts(1) == ["whole"]
    assert collector.is_silent()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_while_a_message_waits_for_a_collector_ends_it_in_time(
    number: signal.Signals, dialogue: Callable[..., Dialogue], nobody: str
) -> None:
    rsyslog = dialogue("--connect", nobody)
    rsyslog.tell(b"x\n")
    rsyslog.wait_until_read()
    rsyslog.shipper.signal(number)
    rsyslog.shipper.process.wait(ENDS_AFTER_SIGNAL_S)  # though its input goes on
    assert processed(rsyslog.finish()) == 0  # and nothing was given up: rsyslog has it


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_between_messages_ends_it_in_time(
    number: signal.Signals, dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint)
    assert rsyslog.ask(b"x") == "OK"
    rsyslog.shipper.signal(number)
    rsyslog.shipper.process.wait(ENDS_AFTER_SIGNAL_S)
    assert processed(rsyslog.finish()) == 1
    assert collector.texts(1) == ["x"]


@pytest.mark.long
@WITH_AND_WITHOUT_SPOOL
def test_after_sigterm_rsyslog_is_answered_until_it_is_done(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    """A service manager stops rsyslogd and us together, and rsyslogd still drains its queue."""
    arguments = ["--connect", collector.endpoint, "--omprog-transactions"]
    rsyslog = dialogue(*arguments, *["--spool", spool] * spooled)
    messages = numbered(9)
    assert rsyslog.ask(BEGIN) == "OK"
    assert rsyslog.ask_all(messages[:3]) == {"DEFER_COMMIT"}
    rsyslog.shipper.signal(signal.SIGTERM)
    assert rsyslog.ask_all(messages[3:6]) == {"DEFER_COMMIT"}
    assert rsyslog.ask_all([COMMIT, BEGIN]) == {"OK"}
    assert rsyslog.ask_all(messages[6:]) == {"DEFER_COMMIT"}
    assert processed(rsyslog.finish(1.5)) == 9  # the end of input is the end
    assert collector.texts(9) == texts(messages)


def test_signal_in_a_transaction_keeps_it_in_the_spool_for_the_next_start(
    dialogue: Callable[..., Dialogue], nobody: str, spool: str, ship: Ship, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", nobody, "--spool", spool, "--omprog-transactions")
    messages = numbered(5)
    assert rsyslog.ask(BEGIN) == "OK"
    assert rsyslog.ask_all(messages) == {"DEFER_COMMIT"}
    rsyslog.shipper.signal(signal.SIGTERM)
    result = rsyslog.finish(2)
    assert result.status == 0
    assert "5 messages wait in" in result.stderr
    assert sent_by_the_next_start(ship, collect, nobody, spool, 5) == texts(messages)


# ---- a real rsyslogd --------------------------------------------------------------------------


def text_of(number: int) -> bytes:
    """What is logged for `number`; some have line ends inside."""
    return b"number %d;" % number + b"\n at line 2\n\n at line 4" * (number % 7 == 0)


OWN_QUEUE = 'queue.type="LinkedList" queue.size="200000" queue.timeoutEnqueue="600000"'


class Logger(Rsyslogd):
    """A rsyslogd that gives what `unit` logs to zmqpush.py --omprog, and waits for the answers.

    It also writes each line into a file: when it is there, the main queue has handed it over.
    """

    CONFIGURATION = """\
global(parser.escapeControlCharactersOnReceive="off" processInternalMessages="on")
main_queue(queue.type="LinkedList" queue.size="200000" queue.timeoutEnqueue="600000")
module(load="impstats" interval="1" format="json" log.syslog="off" log.file="{stats}")
module(load="omprog")
if $programname == "unit" then {{
  action(type="omprog" name="ship" template="{template}"
         binary="{program} --connect {endpoint} --omprog {arguments}"
         confirmMessages="on" output="{output}" reportFailures="on" {parameters}
         action.resumeRetryCount="-1" action.resumeInterval="1")
  action(type="omfile" template="{template}" file="{queued}")
}} else {{
  action(type="omfile" file="{reported}")
}}
"""

    def __init__(self, folder: Path, endpoint: str, arguments: str, parameters: str) -> None:
        folder.mkdir()
        self._output = folder / "output"
        self._queued = folder / "queued"
        self._reported = folder / "reported"
        self._stats = folder / "stats"
        super().__init__(
            folder,
            self.CONFIGURATION.format(
                template=TEMPLATE,
                program=install_program(folder),
                endpoint=endpoint,
                arguments=arguments,
                parameters=parameters,
                output=self._output,
                queued=self._queued,
                reported=self._reported,
                stats=self._stats,
            ),
        )

    def log_numbers(self, numbers: range) -> None:
        """Log a message for each number; returns when rsyslogd has taken them."""
        self.log(*(b"<13>unit: " + text_of(number) for number in numbers))

    def output(self) -> str:
        """What the programs have said on stderr."""
        return self._output.read_text() if self._output.exists() else ""

    def reported(self) -> str:
        """What rsyslogd itself had to log."""
        return self._reported.read_text() if self._reported.exists() else ""

    def count_queued(self) -> int:
        """How many messages have left the main queue."""
        return self._queued.read_bytes().count(b" unit - - - ") if self._queued.exists() else 0

    def wait_until_drained(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait until all queues are empty; rsyslogd tells that every second."""
        begin = self._stats.stat().st_size

        def is_drained() -> bool:
            assert not self.has_crashed()
            with open(self._stats, "rb") as file:
                file.seek(begin)
                whole_lines = file.read().split(b"\n")[:-1]
            told = [json.loads(line.partition(b": ")[2]) for line in whole_lines]
            size = {told["name"]: told["size"] for told in told if told["origin"] == "core.queue"}
            return "main Q" in size and not any(size.values())

        wait_until(is_drained, "rsyslogd's queues are empty", deadline_s)


def numbers_of(events: list[bytes]) -> list[int]:
    """The numbers that were logged, in the order in which they came; their texts are checked."""
    numbers = []
    for event in events:
        text = strict_json(event)["message"].partition(" unit - - -  ")[2].encode()
        numbers.append(int(re.match(rb"number (\d+);", text)[1]))  # type: ignore[index]
        assert text == text_of(numbers[-1])
    return numbers


def pids_of(events: list[bytes]) -> set[int]:
    """The shippers that have made the events."""
    return {strict_json(event)["@pid"] for event in events}


def summaries(said: str) -> dict[int, int]:
    """What the programs have sent in all, by pid; they have said nothing else."""
    lines = said.splitlines()
    pattern = r"Processed (\d+) messages in \d+\.\d{4}ms\. Tagged with @pid:(\d+)"
    matches = [re.fullmatch(pattern, line) for line in lines]
    assert all(matches), said
    return {int(match[2]): int(match[1]) for match in matches if match}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver, not started yet."""
    receiver = Receiver(tmp_path / "receiver")
    yield receiver
    receiver.close()


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[Callable[..., Logger]]:
    """Makes rsyslogds that run zmqpush.py --omprog, and starts them; all is killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(
            endpoint: str, arguments: str = "", parameters: str = "", transactions: bool = False
        ) -> Logger:
            arguments += " --omprog-transactions" * transactions
            parameters += ' useTransactions="on"' * transactions
            logger = Logger(tmp_path / "logger", endpoint, arguments, parameters)
            stack.callback(logger.close)
            logger.start()
            return logger

        yield start


@pytest.mark.long
@WITH_AND_WITHOUT_SPOOL
@BOTH_WAYS
def test_every_message_of_rsyslog_arrives_once(
    transactions: bool,
    spooled: bool,
    logger: Callable[..., Logger],
    receiver: Receiver,
    spool: str,
) -> None:
    receiver.start()
    arguments = f"--spool {spool}" if spooled else ""
    rsyslogd = logger(receiver.endpoint, arguments, transactions=transactions)
    for start in range(0, 3000, 1000):  # taken by rsyslogd in batches of many sizes
        rsyslogd.log_numbers(range(start, start + 1000))
    events = receiver.wait_for(3000)
    assert numbers_of(events) == list(range(3000))
    (pid,) = pids_of(events)
    rsyslogd.terminate()
    assert summaries(rsyslogd.output()) == {pid: 3000}
    assert "returned:" not in rsyslogd.reported()
    assert len(receiver.received()) == 3000


@pytest.mark.long
def test_rsyslogs_own_marks_are_known(logger: Callable[..., Logger], collector: Collector) -> None:
    rsyslogd = logger(
        collector.endpoint,
        "--omprog-transactions --omprog-begin=((( --omprog-commit=)))",
        'useTransactions="on" beginTransactionMark="(((" commitTransactionMark=")))"',
    )
    rsyslogd.log_numbers(range(20))
    assert numbers_of(collector.receive(20)) == list(range(20))
    rsyslogd.terminate()
    assert collector.is_silent()
    assert set(summaries(rsyslogd.output()).values()) == {20}


@pytest.mark.long
@BOTH_WAYS
def test_rsyslog_keeps_what_waits_for_a_collector(
    transactions: bool, logger: Callable[..., Logger], nobody: str, collect: Collect
) -> None:
    """Its patience, confirmTimeout, ends while we wait, or would without the dots."""
    parameters = f'confirmTimeout="{DOT_EVERY_S * 1500:.0f}"'
    rsyslogd = logger(nobody, "", parameters, transactions=transactions)
    rsyslogd.log_numbers(range(200))
    pid = rsyslogd.program()
    time.sleep(DOT_EVERY_S * 1.75)
    assert rsyslogd.programs() == [pid]
    collector = collect(nobody)
    assert numbers_of(collector.receive(200)) == list(range(200))
    rsyslogd.terminate()
    assert collector.is_silent()
    assert summaries(rsyslogd.output()) == {pid: 200}
    assert "did not respond" not in rsyslogd.reported()


@pytest.mark.long
@BOTH_WAYS
def test_rsyslog_repeats_what_could_not_be_written(
    transactions: bool,
    logger: Callable[..., Logger],
    collector: Collector,
    spool: str,
) -> None:
    """A limit on the size of files (EFBIG) stands for a disk that takes no more."""
    rsyslogd = logger(collector.endpoint, f"--spool {spool}", OWN_QUEUE, transactions)
    rsyslogd.log_numbers(range(100))
    assert numbers_of(collector.receive(100)) == list(range(100))
    pid = rsyslogd.program()
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, unlimited[1]))
    rsyslogd.log_numbers(range(100, 3000))
    refused = "returned: cannot write to the spool"
    wait_until(lambda: refused in rsyslogd.reported(), "it was refused")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    assert numbers_of(collector.receive(2900)) == list(range(100, 3000))
    rsyslogd.terminate()
    assert collector.is_silent()
    assert summaries(rsyslogd.output()) == {pid: 3000}


SEVERAL_WORKERS = f"""{OWN_QUEUE}
queue.workerThreads="4" queue.workerThreadMinimumMessages="100"
"""


@pytest.mark.long
@BOTH_WAYS
def test_several_programs_share_a_spool(
    transactions: bool, logger: Callable[..., Logger], receiver: Receiver, spool: str
) -> None:
    """And those that rsyslog ends, because they are idle, leave nothing behind."""
    receiver.start()
    parameters = SEVERAL_WORKERS + 'queue.timeoutWorkerThreadShutdown="100"'
    rsyslogd = logger(receiver.endpoint, f"--spool {spool}", parameters, transactions=transactions)
    rsyslogd.log_numbers(range(3000))
    events = receiver.wait_for(3000)
    assert sorted(numbers_of(events)) == list(range(3000))
    assert len(pids_of(events)) > 1
    wait_until(lambda: len(rsyslogd.programs()) <= 1, "the others have ended")
    rsyslogd.terminate()
    sent = summaries(rsyslogd.output())
    assert set(sent) >= pids_of(events)
    assert sum(sent.values()) == 3000
    assert os.listdir(spool) == []


@pytest.mark.long
@WITH_AND_WITHOUT_SPOOL
def test_programs_of_a_killed_rsyslogd_end(
    spooled: bool, logger: Callable[..., Logger], collector: Collector, spool: str
) -> None:
    rsyslogd = logger(collector.endpoint, f"--spool {spool}" if spooled else "")
    rsyslogd.log_numbers(range(100))
    events = collector.receive(100)
    rsyslogd.kill()
    rsyslogd.wait_for_programs()
    assert numbers_of(events) == list(range(100))
    assert collector.is_silent()
    assert not spooled or os.listdir(spool) == []


# ---- chaos ------------------------------------------------------------------------------------


class Printer:
    """tests/support/pull_printer.py: a collector that can be stopped, and goes on."""

    def __init__(self, folder: Path) -> None:
        self._printed = folder / "printed"
        with open(self._printed, "wb") as printed:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    TOP / "tests" / "support" / "pull_printer.py",
                    "--bind",
                    "tcp://127.0.0.1:*",
                ],
                stdout=printed,
                stderr=subprocess.PIPE,
            )
        assert self.process.stderr
        self.endpoint = self.process.stderr.readline().decode().strip()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def received(self) -> list[bytes]:
        """What has come so far, a message each."""
        return self._printed.read_bytes().split(b"\n")[:-1]

    def close(self) -> None:
        assert self.process.stderr
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture
def printer(tmp_path: Path) -> Iterator[Printer]:
    printer = Printer(tmp_path)
    yield printer
    printer.close()


def kill_at_any_moment(pid: int) -> str:
    """Kill a program with -9; returns when that was, or "" where it had ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return ""
    return "at any moment"


def kill_at_a_question(pid: int) -> str:
    """Kill a program with -9 if it has not read yet what it is asked; returns what that is.

    What comes before it was answered. "" where it is not asked anything just now.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        stdin = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, stdin)
        # If it had just answered, rsyslogd comes with the next message.
        if select.select([stdin], [], [], 0.02)[0] and (question := os.read(stdin, 65536)):
            os.kill(pid, signal.SIGKILL)
            return {BEGIN: "at a begin", COMMIT: "at a commit"}.get(question.strip(), "at a line")
    return ""


# Something for rsyslogd to save when it is stopped, and to go on with. rsyslog 8.2302 loses up to a
# batch a worker, whatever the program is, where it has to cancel workers: where all of the queue is
# on its disk (workers of that part are given no time to end), and where a program has just died.
# So before it is stopped, all is drained and all programs live, and what is logged then fits in
# memory. With queue.type="Disk" it loses nothing: there it is stopped at any moment.
DISK_ASSISTED = """queue.type="LinkedList" queue.highWatermark="2500" queue.lowWatermark="500" """
ON_DISK = """queue.type="Disk" """
QUEUE = """queue.filename="ship" queue.size="200000" queue.timeoutEnqueue="600000"
         queue.saveOnShutdown="on" queue.timeoutActionCompletion="10000" closeTimeout="2000"
         queue.workerThreads="{workers}" queue.workerThreadMinimumMessages="100" """
BURST = 1000  # messages
DRAINED_S = 80.0
MOST_CRASHES = 3  # of rsyslogd
# Messages that may come again after a kill: SNDHWM and what libzmq writes at once; and what
# rsyslog repeats, a batch.
REPEATED_BY_A_KILL = 1000 + 8192 // 40 + 128


def send_to(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those that still are."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class RsyslogdHangs(Exception):
    """It has something for programs, and asks none."""


class ProgramHangs(Exception):
    """It did not answer; one that was started anew did."""


class Chaos:
    """Numbers are logged while programs are killed, and everyone else is stopped and goes on.

    rsyslogd 8.2302 sometimes crashes then (SIGSEGV in a worker of its disk-assisted queue, a double
    free), or hangs, and loses what it had in memory. That is its own fault: it is started again,
    and all begins anew.
    """

    def __init__(self, rsyslogd: Logger, printer: Printer, is_rude: bool, seed: int) -> None:
        """`is_rude`: rsyslogd is stopped even if programs have just been killed."""
        self.first = 0  # number since it began, or rsyslogd has crashed
        self.logged = 0
        self.killed: collections.Counter[str] = collections.Counter()
        self._missing = 0  # numbers that died in rsyslogd's main queue
        self._rsyslogd = rsyslogd
        self._printer = printer
        self._is_rude = is_rude
        self._rng = random.Random(seed)

    def run(self, count: int, kills: int) -> None:
        """Log `count` numbers, with so many kills, and wait until all are answered."""
        for _ in range(MOST_CRASHES):
            try:
                self._run(count, kills)
                self._wait_until_drained()
                return
            except RsyslogdHangs:
                self._rsyslogd.kill()
            except (AssertionError, OSError):
                if not self._rsyslogd.has_crashed(within_s=5):
                    raise
            self._begin_anew()
        raise AssertionError("rsyslogd crashes all the time")

    def _wait_until_drained(self) -> None:
        """Where that takes too long, new programs tell who is stuck: an old one, or rsyslogd."""
        try:
            self._rsyslogd.wait_until_drained(DRAINED_S)
            return
        except AssertionError:
            if self._rsyslogd.has_crashed(within_s=5):
                raise
        send_to(self._rsyslogd.programs(), signal.SIGKILL)
        with contextlib.suppress(AssertionError):
            self._rsyslogd.wait_until_drained(DRAINED_S)
            raise ProgramHangs
        raise RsyslogdHangs

    def _begin_anew(self) -> None:
        print("rsyslogd has crashed by itself, or hangs: once more")
        self._printer.go_on()
        self._rsyslogd.wait_for_programs()
        for file in self._rsyslogd.folder.glob("ship.*"):
            file.unlink()
        self._missing = self.logged - self._rsyslogd.count_queued()
        self.first = self.logged
        self.killed.clear()
        self._rsyslogd.start()

    def _run(self, count: int, kills: int) -> None:
        rsyslogd, printer = self._rsyslogd, self._printer
        burst = BURST if self._is_rude else 2 * BURST
        part = (count - 2 * burst) // kills
        for step in range(kills):
            self.log(part)
            self.kill(kill_at_any_moment if step % 3 else kill_at_a_question)
            if step in (kills // 6, 4 * kills // 6):
                printer.stop()
            if step in (2 * kills // 6, 5 * kills // 6):
                printer.go_on()
            if step == kills // 2:
                self.restart(rsyslogd.signal_rsyslogd)
            if step == 5 * kills // 6 - 1:  # the printer is stopped as well
                self.restart(rsyslogd.signal_all)
        self.log(max(count - (self.logged - self.first), 1))

    def log(self, count: int) -> None:
        self._rsyslogd.log_numbers(range(self.logged, self.logged + count))
        self.logged += count

    def kill(self, how: Callable[[int], str]) -> None:
        """Kill a program when some time has passed."""
        time.sleep(self._rng.uniform(0, 0.2))
        killed = ""
        while not killed:
            tries_until = time.monotonic() + 0.2
            while not killed and time.monotonic() < tries_until:
                programs = wait_until(self._rsyslogd.programs, "there is a program")
                killed = how(self._rng.choice(sorted(programs)))
            if not killed:
                self.log(200)  # they have run out of work
        self.killed[killed] += 1

    def restart(self, send: Callable[[signal.Signals], None]) -> None:
        """Stop rsyslogd in the middle of its work, but with an empty main queue; start it again.

        Its programs do nothing for a moment, so that there is work.
        """
        rsyslogd = self._rsyslogd
        if not self._is_rude:
            self.log(BURST)  # to which the last program that was killed is missed
            self._wait_until_drained()
        programs = rsyslogd.programs()
        send_to(programs, signal.SIGSTOP)
        self.log(BURST)
        queued = self.logged - self._missing
        wait_until(lambda: rsyslogd.count_queued() == queued, "the main queue is empty")
        send(signal.SIGTERM)
        time.sleep(0.1)  # ten times as long as it waits for its queue: the rest will be saved
        send_to(programs, signal.SIGCONT)
        assert rsyslogd.wait() == 0, rsyslogd.said()
        assert list(rsyslogd.folder.glob("ship.*")), "nothing was left to be saved"
        rsyslogd.start()


@pytest.fixture
def check_chaos(
    tmp_path: Path, spool: str, logger: Callable[..., Logger], printer: Printer, ship: Ship
) -> Callable[..., None]:
    """Makes a chaos, and checks that every number arrives in spite of it."""

    def check(count: int, kills: int, workers: int, queue: str, transactions: bool) -> None:
        parameters = queue + QUEUE.format(workers=workers)
        rsyslogd = logger(printer.endpoint, f"--spool {spool}", parameters, transactions)
        chaos = Chaos(rsyslogd, printer, queue == ON_DISK, seed=count + transactions)
        began_at = time.monotonic()
        chaos.run(count, kills)
        rsyslogd.terminate()
        rsyslogd.wait_for_programs()
        last = ship("--connect", printer.endpoint, "--spool", spool).finish(b"")
        assert (last.status, last.stderr) == (0, "")
        everything = set(range(chaos.first, chaos.logged))
        with contextlib.suppress(AssertionError):  # below is said what is lost
            wait_until(lambda: everything <= set(numbers_of(printer.received())), "")
        took_s = time.monotonic() - began_at

        received = [number for number in numbers_of(printer.received()) if number >= chaos.first]
        times = collections.Counter(received)
        lost = sorted(everything - set(times))
        repeated = sum(times.values()) - len(times)
        killed = ", ".join(f"{times} {how}" for how, times in chaos.killed.items())
        print(f"{len(everything)} messages, killed {killed}; {took_s:.1f} s")
        print(f"{len(lost)} lost; {repeated} repeated; {last.processed} sent by the last start")
        assert not lost, rsyslogd.said()
        assert sum(chaos.killed.values()) == kills
        assert repeated <= (kills + 4 * workers) * REPEATED_BY_A_KILL
        assert os.listdir(spool) == []
        assert not re.search("Traceback|damaged|cannot", rsyslogd.output())
        assert "returned:" not in rsyslogd.reported()

    return check


@pytest.mark.long
@BOTH_WAYS
@pytest.mark.timeout(360)
def test_nothing_is_lost_though_programs_are_killed_and_everyone_is_stopped(
    transactions: bool, check_chaos: Callable[..., None]
) -> None:
    """A fifth of the messages of the long one, but as many kills."""
    check_chaos(10_000, 24, 4, DISK_ASSISTED, transactions)


@BOTH_WAYS
@pytest.mark.soak
@pytest.mark.parametrize("queue", [DISK_ASSISTED, ON_DISK], ids=["disk-assisted", "disk"])
@pytest.mark.parametrize("workers", [1, 4])
def test_nothing_of_much_is_lost_though_programs_are_killed_and_everyone_is_stopped(
    workers: int, queue: str, transactions: bool, check_chaos: Callable[..., None]
) -> None:
    check_chaos(50_000, 24 if workers == 1 else 60, workers, queue, transactions)

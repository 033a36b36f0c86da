"""rsyslog's side of the dialogue: the test holds both pipes and writes as rsyslog does."""

from __future__ import annotations

import os
import re
import select
import time

import pytest

from tests.support.aliases import Collect, Ship
from tests.support.net import unread
from tests.support.programs import Result, Shipper
from tests.support.waiting import DEADLINE_S, wait_until

BEGIN, COMMIT = b"BEGIN TRANSACTION", b"COMMIT TRANSACTION"  # rsyslog's defaults
DOT_EVERY_S = 2.0
BOTH_WAYS = pytest.mark.parametrize("transactions", [False, True], ids=["single", "transactions"])
WITH_AND_WITHOUT_SPOOL = pytest.mark.parametrize("spooled", [False, True], ids=["memory", "spool"])


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

    def begin(self, messages: list[bytes]) -> None:
        """Begin a transaction with `messages`; each is answered as rsyslog expects within one."""
        assert self.ask(BEGIN) == "OK"
        assert self.ask_all(messages) == {"DEFER_COMMIT"}

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
        wait_until(lambda: not unread(self._stdin), "the pipe is empty")

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


def sent_by_the_next_start(
    ship: Ship, collect: Collect, endpoint: str, spool: str, count: int
) -> list[str]:
    """The texts that a shipper with nothing to read sends; so many, and no more."""
    collector = collect(endpoint)
    result = ship("--connect", endpoint, "--spool", spool).finish(b"")
    assert (result.status, result.stderr) == (0, "")
    assert result.processed == count
    return collector.texts(count)

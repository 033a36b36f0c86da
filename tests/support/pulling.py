"""A collector of ours, zmqpull.py, what is sent to it, and what it has written."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from tests.support.programs import Shipper
from tests.support.waiting import DEADLINE_S, wait_until

PROGRAM = "zmqpull.py"
ANY_PORT = "tcp://127.0.0.1:*"
LARGE = 10_000  # bytes of an event of which a pipe holds few
MEBIBYTE = 1024 * 1024


class Puller(Shipper):
    """A zmqpull.py process."""

    def __init__(self, said: Path, *arguments: str, **popen: Any) -> None:
        """What it says on stderr goes into the file `said`, to be read at any time."""
        self._said = said
        with open(said, "wb") as stderr:
            super().__init__(*arguments, program=PROGRAM, **{"stderr": stderr, **popen})
        self._data = b""
        self.endpoint = ""  # the one that was chosen for it, once it is known

    def wait_until_bound(self) -> str:
        """The endpoint that it has chosen, where it was to choose."""
        wait_until(lambda: self._lines() or self.process.poll() is not None, "it is bound")
        bound = re.fullmatch(r"zmqpull\.py: bound to (\S+)", (self._lines() or [""])[0])
        assert bound, self._lines()
        return bound[1]

    def _lines(self) -> list[str]:
        return self._said.read_text().split("\n")[:-1]

    def said(self) -> list[str]:
        """What it has said so far, but to what it is bound; a line each, without its name."""
        lines = [re.fullmatch(r"zmqpull\.py: (.+)", line) for line in self._lines()]
        assert all(lines), self._lines()
        return [line[1] for line in lines if line and not line[1].startswith("bound to ")]

    def wait_for_word(self, word: str) -> str:
        """Wait until it says something with `word` in it; return that line."""
        lines = wait_until(lambda: [line for line in self.said() if word in line], word)
        return str(lines[-1])

    def counters(self) -> tuple[int, int, int]:
        """Events written, their bytes, events in hand: what it says when it is asked."""
        before = len(self.said())

        def told() -> list[str]:
            return [line for line in self.said()[before:] if " in hand" in line]

        self.signal(signal.SIGUSR1)
        return read_counters(wait_until(told, "it tells its counters")[0])

    def read(self, count: int, deadline_s: float = DEADLINE_S) -> list[bytes]:
        """The next `count` lines on its standard output, which is a pipe."""
        assert self.process.stdout
        pieces, missing = [self._data], count - self._data.count(b"\n")
        ends_at = time.monotonic() + deadline_s
        while missing > 0:
            left_s = ends_at - time.monotonic()
            assert left_s > 0, f"{missing} of {count} lines have not come"
            if select.select([self.process.stdout], [], [], left_s)[0]:
                pieces.append(os.read(self.process.stdout.fileno(), MEBIBYTE))
                assert pieces[-1], f"it has ended, and said {self.said()}"
                missing -= pieces[-1].count(b"\n")
        *lines, self._data = b"".join(pieces).split(b"\n", count)
        return lines

    def end(self, number: signal.Signals | None = None) -> list[str]:
        """Send it a signal, or let it end by itself, with status 0; return what it has said."""
        if number:
            self.signal(number)
        assert self.process.wait(DEADLINE_S) == 0, self._lines()
        return self.said()


Pull = Callable[..., Puller]  # the fixture `pull`
Push = Callable[..., zmq.Socket[bytes]]  # the fixture `push`


def read_counters(line: str) -> tuple[int, int, int]:
    counters = re.fullmatch(
        r"\d+\.\ds: (\d+) events written \((\d+) bytes\), (\d+) in hand"
        r"(?:, \d+ peers turned away)?",
        line,
    )
    assert counters, line
    written, size, in_hand = map(int, counters.groups())
    return written, size, in_hand


def numbered(count: int, start: int = 0, size: int = 0) -> list[bytes]:
    """Events with a number each, and a text of `size` bytes."""
    return [
        b'{"number":%d,"text":"%b"}' % (number, b"x" * size)
        for number in range(start, start + count)
    ]


def send(sender: zmq.Socket[bytes], messages: list[bytes]) -> None:
    for message in messages:
        sender.send(message)


def send_until_held_back(sender: zmq.Socket[bytes]) -> int:
    """Send numbered large events until no more is taken; return how many were."""
    for number in range(10_000):
        if not sender.poll(300, zmq.POLLOUT):
            return number
        send(sender, numbered(1, number, LARGE))
    raise AssertionError("nobody holds the sender back")


def lines_in(*paths: Path) -> list[bytes]:
    """The lines of these files, one after the other, each of which must end with a line end."""
    data = b"".join(path.read_bytes() for path in paths if path.exists())
    assert data.endswith(b"\n") or not data
    return data.split(b"\n")[:-1]

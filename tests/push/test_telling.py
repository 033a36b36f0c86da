"""What only tells never stops what works: nobody reads what the shipper says, and it ships on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import termios
from collections.abc import Callable
from typing import Any

import pytest

from tests.push.command_line import refused
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.net import unread
from tests.support.proc import wait_until_acts_on
from tests.support.programs import Shipper
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


OFTEN = ["--stats", "0.001"]
LOST = re.compile(r"^zmqpush\.py: (\d+) lines could not be told\r?$", re.M)


PIPE_IS_FULL = 59_000  # bytes: a short write does not begin in the rest of a page
TERMINAL_IS_FULL = 4_000


def wait_until_full(descriptor: int, least: int) -> None:
    """Wait until a pipe, or a terminal, takes no more: what is in it stays the same."""
    before = -1

    def is_full() -> bool:
        nonlocal before
        last, before = before, unread(descriptor)
        select.select([], [], [], 0.1)
        return before >= least and last == before

    wait_until(is_full, "nothing more is written into it")


def drained(descriptor: int, until: Callable[[str], Any]) -> str:
    """What is read from there until that holds."""
    seen = ""
    while not until(seen):
        assert select.select([descriptor], [], [], DEADLINE_S)[0], seen
        seen += os.read(descriptor, 65536).decode()
    return seen


def check_ships_on_and_ends(shipper: Shipper, collector: Collector) -> None:
    for number in range(3):
        shipper.write(b"%d\n" % number)
        assert collector.texts(1) == [str(number)]
    wait_until_acts_on(shipper.pid, signal.SIGTERM)
    shipper.signal(signal.SIGTERM)
    assert shipper.process.wait(DEADLINE_S) == 0


def test_a_full_pipe_on_stderr_stops_nothing(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint, *OFTEN)
    assert shipper.process.stderr
    wait_until_full(shipper.process.stderr.fileno(), PIPE_IS_FULL)
    check_ships_on_and_ends(shipper, collector)


def test_what_could_not_be_told_is_counted_and_told_later(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint, *OFTEN)
    assert shipper.process.stderr
    wait_until_full(shipper.process.stderr.fileno(), PIPE_IS_FULL)
    seen = drained(shipper.process.stderr.fileno(), LOST.search)
    lost = LOST.search(seen)
    assert lost
    assert int(lost[1]) > 0
    for line in seen.splitlines()[:-1]:
        assert line.startswith("zmqpush.py: "), "lines are whole"
    shipper.end_input()


@pytest.mark.parametrize("options", [OFTEN, [*OFTEN, "--progress"], ["--progress"]])
def test_a_terminal_that_is_stopped_stops_nothing(
    options: list[str], terminal: tuple[int, int], collector: Collector, ship: Ship
) -> None:
    """Ctrl-S."""
    pytest.importorskip("tqdm")
    user, program = terminal
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    shipper = ship("-c", collector.endpoint, *options, stderr=program)
    assert drained(user, lambda seen: len(seen) > 10)
    termios.tcflow(program, termios.TCOOFF)
    check_ships_on_and_ends(shipper, collector)


def test_a_terminal_that_nobody_reads_stops_nothing(
    terminal: tuple[int, int], collector: Collector, ship: Ship
) -> None:
    user, program = terminal
    shipper = ship("-c", collector.endpoint, *OFTEN, stderr=program)
    wait_until_full(user, TERMINAL_IS_FULL)
    check_ships_on_and_ends(shipper, collector)


def test_a_full_pipe_on_stdout_holds_no_end_up(collector: Collector, ship: Ship) -> None:
    """Its summary only tells."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    shipper = ship("-c", collector.endpoint, stdout=writer)
    shipper.write(b"x\n")
    assert collector.texts(1) == ["x"]
    shipper.end_input()
    assert shipper.process.wait(DEADLINE_S) == 0
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("program", ["zmqpush.py", "zmqpull.py"])
def test_what_is_said_moves_no_cursor(program: str, ship: Ship) -> None:
    """Controls, and what else cannot be seen, are visible text; what can be seen stays."""
    endpoint = "ipc:///nowhere/\x1b[2J\x07é\u202e\x9b\x7f\t"
    said = refused(ship("-b", endpoint, program=program).finish(), program)
    assert said.startswith("ipc:///nowhere/\\x1b[2J\\x07é\\u202e\\x9b\\x7f\\t: No such")

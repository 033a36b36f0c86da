"""When what is written is read at once, and when lines are left to gather (--gather)."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.push.command_line import parse
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.lines import lines, text, written_in_background
from tests.support.net import unread
from tests.support.proc import wakeups
from tests.support.programs import Shipper, wait_until_read
from tests.support.waiting import wait_until
from zmqlines.gathering import Gathering

pytestmark = pytest.mark.once  # 3.14, in Debian testing, runs it as well

BOOTED_LONG_AGO_S = 100_000.0
LONGEST_S = 0.04
OFTEN = 2 / LONGEST_S  # a second
PIPE = 1024 * 1024  # bytes
HALF = 200_000  # of that, bytes


# ---- the rule, without a clock ----------------------------------------------------------------


class Reader:
    """Reads what a source writes, as Stdin does, at a time that only we know."""

    def __init__(self, longest_s: float = LONGEST_S, pipe: int = PIPE) -> None:
        self.gathering = Gathering(longest_s)
        self.gathering.room = pipe
        self.now = BOOTED_LONG_AGO_S
        self.wakeups = 0
        self.delays: list[float] = []  # from a write to its read
        self.held: list[int] = []  # bytes that were read at a time

    def read(self, gaps: Iterator[float], size: int, seconds: float, rest_s: float = 0.0) -> None:
        """Read what is written after each of `gaps`, in seconds, for so long.

        A write is `size` bytes and a line. After a read nothing is read for `rest_s`.
        """
        self.wakeups, self.delays, self.held = 0, [], []
        ends_at = self.now + seconds
        written_at = self.now + next(gaps)
        while self.now < ends_at:
            pause_s = self.gathering.pause_s(self.now) if self.gathering.is_on else 0.0
            if pause_s or rest_s:
                self.now += max(pause_s, rest_s)
                if not pause_s:
                    self.gathering.rested(rest_s)
            else:
                self.now = max(self.now, written_at)
            self.wakeups += 1
            if not self.gathering.is_on:
                self.gathering.woken(self.now)
            count = 0
            while written_at <= self.now:
                self.delays.append(self.now - written_at)
                count += 1
                written_at += next(gaps)
            self.held.append(count * size)
            if count:
                self.gathering.took(count * (b"x" * (size - 1) + b"\n"))


def each(seconds: float) -> Iterator[float]:
    return itertools.repeat(seconds)


SELDOM = [0.01, 0.5, 5, 20, 40, 49]  # lines a second
FREQUENT = [55, 100, 500, 2_500, 10_000]


@pytest.mark.parametrize("rate", SELDOM)
@pytest.mark.parametrize("size", [2, 100, 65536])
def test_a_source_that_writes_seldom_is_read_at_once(rate: float, size: int) -> None:
    reader = Reader()
    reader.read(each(1 / rate), size, seconds=100 / rate)
    assert set(reader.delays) == {0}


@pytest.mark.parametrize("rate", FREQUENT)
@pytest.mark.parametrize("size", [2, 100])
def test_lines_that_come_often_are_gathered(rate: float, size: int) -> None:
    reader = Reader()
    reader.read(each(1 / rate), size, seconds=1)
    reader.read(each(1 / rate), size, seconds=10)
    assert reader.wakeups <= 10 / LONGEST_S + 2
    assert max(reader.delays) <= LONGEST_S


@pytest.mark.parametrize("longest_s", [0.001, 0.01, 0.1, 1.0])
def test_the_longest_pause_is_what_was_said(longest_s: float) -> None:
    reader = Reader(longest_s)
    reader.read(each(longest_s / 20), 100, seconds=300 * longest_s)
    assert longest_s * 0.9 <= max(reader.delays) <= longest_s
    reader = Reader(longest_s)
    reader.read(each(longest_s), 100, seconds=300 * longest_s)
    assert set(reader.delays) == {0}


def test_with_0_nothing_is_gathered() -> None:
    reader = Reader(longest_s=0.0)
    for rate in FREQUENT:
        reader.read(each(1 / rate), 100, seconds=2)
        assert set(reader.delays) == {0}


@pytest.mark.parametrize("pipe", [4096, 65536, PIPE])
@pytest.mark.parametrize("rate", [500, 10_000, 50_000])
@pytest.mark.parametrize("size", [100, 1000, 4096])
def test_what_gathers_leaves_room_in_the_pipe(rate: float, size: int, pipe: int) -> None:
    reader = Reader(pipe=pipe)
    reader.read(each(1 / rate), size, seconds=2)
    assert max(reader.held) <= min(pipe, 1.1 * HALF)  # a tick may come a write or two late


def test_bulk_is_read_without_a_pause() -> None:
    reader = Reader()
    reader.read(each(1 / 20_000), 65536, seconds=0.1)
    assert sorted(reader.delays)[len(reader.delays) * 9 // 10] <= 0.001


def test_a_source_that_grows_quiet_is_read_at_once_again() -> None:
    reader = Reader()
    reader.read(each(0.0001), 100, seconds=2)
    assert max(reader.delays) > 0
    reader.read(each(0.2), 100, seconds=2)
    assert set(reader.delays[2:]) == {0}


def test_a_source_that_writes_a_line_a_tick_is_read_at_once_again() -> None:
    """No tick is empty then, but less than two lines come in each."""
    reader = Reader()
    reader.read(each(0.0001), 100, seconds=2)
    reader.read(each(1 / 30), 100, seconds=3)
    assert set(reader.delays[-30:]) == {0}


def test_lines_that_turn_into_a_few_large_ones_are_read_at_once() -> None:
    reader = Reader()
    reader.read(each(0.0001), 100, seconds=2)
    reader.read(each(0.1), 65536, seconds=5)
    assert set(reader.delays[-10:]) == {0}


def test_a_source_that_was_quiet_is_gathered_again() -> None:
    reader = Reader()
    reader.read(each(10), 100, seconds=1000)
    reader.read(each(0.0001), 100, seconds=10)
    assert reader.wakeups <= 10 / LONGEST_S + 2 * Gathering.WAKES


def test_where_there_is_a_rest_after_each_read_the_longer_pause_counts() -> None:
    reader = Reader()
    reader.read(each(0.0001), 100, seconds=1, rest_s=0.02)
    reader.read(each(0.0001), 100, seconds=10, rest_s=0.02)
    assert reader.wakeups == pytest.approx(10 / LONGEST_S, abs=5)
    reader.read(each(0.0001), 100, seconds=10, rest_s=0.1)
    assert reader.wakeups == pytest.approx(10 / 0.1, abs=5)


def test_a_rest_does_not_make_a_seldom_source_frequent() -> None:
    reader = Reader()
    reader.read(each(1 / 40), 100, seconds=20, rest_s=0.02)
    assert not reader.gathering.is_on


def test_whatever_comes_is_read_within_the_longest_pause() -> None:
    chance = random.Random(7)
    reader = Reader()
    for _ in range(200):
        rate = 10 ** chance.uniform(0, 5)
        gaps = map(chance.expovariate, itertools.repeat(rate))
        reader.read(gaps, chance.choice([2, 100, 5000]), seconds=chance.uniform(0, 3))
        assert max(reader.delays, default=0) <= LONGEST_S + 1e-9


# ---- the option -------------------------------------------------------------------------------


def test_gather_is_a_number_of_seconds_from_0_up() -> None:
    assert parse()["gather"] == 0.04
    assert parse("--gather", "0")["gather"] == 0
    assert parse("--gather=1.5")["gather"] == 1.5


# ---- a real pipe ------------------------------------------------------------------------------


def messages(collector: Collector, expected: list[bytes]) -> list[bytes]:
    return [text.encode() for text in collector.texts(len(expected))]


GATHERS = ("--gather", "1")  # seconds: a machine may be slow


def start(
    ship: Ship, collector: Collector, *arguments: str, gathers: tuple[str, ...] = GATHERS
) -> tuple[Shipper, list[bytes]]:
    """A shipper that has begun to gather, and what was written to it."""
    shipper = ship("-c", collector.endpoint, *gathers, *arguments)
    assert shipper.process.stdin
    pipe = shipper.process.stdin.fileno()
    written = lines(1)
    shipper.write(text(written))
    wait_until_read(shipper)
    while True:
        written += lines(1, start=len(written))
        os.write(pipe, written[-1] + b"\n")
        if len(written) > 3 * Gathering.WAKES and unread(pipe):
            return shipper, written
        with contextlib.suppress(AssertionError):  # it gathers
            wait_until(lambda: not unread(pipe), "read at once", deadline_s=0.02)
        assert len(written) < 5000, "it does not gather"


def test_what_gathers_is_sent_in_order_and_the_process_sleeps_again(
    ship: Ship, collector: Collector
) -> None:
    shipper, written = start(ship, collector)
    assert messages(collector, written) == written
    wait_until(lambda: wakeups(shipper.pid, 0.5)[0] == 0, "asleep", deadline_s=30)
    shipper.write(b"seldom\n")
    assert collector.texts(1) == ["seldom"]
    result = shipper.finish()
    assert (result.status, result.processed) == (0, len(written) + 1)


def test_more_than_the_pipe_holds_may_come_while_it_gathers(
    ship: Ship, collector: Collector
) -> None:
    shipper, written = start(ship, collector)
    more = lines(50_000, size=99, start=10**6)
    with written_in_background(shipper, text(more)):
        assert messages(collector, written + more) == written + more
    result = shipper.finish()
    assert (result.status, result.processed) == (0, len(written) + len(more))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_wait_for_a_tick(
    ship: Ship, collector: Collector, number: signal.Signals
) -> None:
    shipper, written = start(ship, collector, gathers=("--gather", "60"))
    shipper.signal(number)
    assert messages(collector, written) == written
    result = shipper.finish()
    assert (result.status, result.processed) == (0, len(written))


def test_the_end_of_input_is_met_at_a_tick(ship: Ship, collector: Collector) -> None:
    shipper, written = start(ship, collector)
    shipper.end_input()
    assert messages(collector, written) == written
    assert shipper.finish().status == 0


def test_with_gather_0_every_line_is_read_at_once(ship: Ship, collector: Collector) -> None:
    shipper = ship("-c", collector.endpoint, "--gather", "0")
    for number in range(1000):  # at ticks that would take 40 s
        shipper.write(b"%d\n" % number)
        assert collector.texts(1) == [str(number)]
    assert shipper.finish().status == 0


@pytest.mark.parametrize("spooled", [False, True], ids=["", "spool"])
def test_under_omprog_nothing_gathers(
    spooled: bool, ship: Ship, collector: Collector, tmp_path: Path
) -> None:
    options = ["--omprog", "--gather", "60", *["--spool", str(tmp_path / "spool")] * spooled]
    shipper = ship("-c", collector.endpoint, *options, stderr=subprocess.DEVNULL)
    assert shipper.process.stdout
    assert shipper.process.stdout.readline() == b"OK\n"
    for number in range(200):
        shipper.write(b"%d\r\n" % number if number % 2 else b"%d\n" % number)
        assert shipper.process.stdout.readline() == b"OK\n"
    assert collector.texts(200) == [str(number) for number in range(200)]

"""A signal ends the input before its end: what was read, what was not, and the exit status."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.lines import lines, text
from tests.support.proc import (
    wait_until_acts_on,
    wait_until_asleep,
    wait_until_stopped,
    wait_until_taken,
)
from tests.support.programs import Shipper
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def start(ship: Ship, collector: Collector, *arguments: str, **settings: object) -> Shipper:
    shipper = ship("-c", collector.endpoint, "--format", "raw", *arguments, **settings)
    wait_until_acts_on(shipper.pid, signal.SIGTERM)
    return shipper


@BOTH
def test_a_regular_file_that_was_not_read_to_its_end_is_told_and_status_1(
    number: signal.Signals, collector: Collector, ship: Ship, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(text(lines(2_000_000, size=99)))
    with path.open("rb") as file:
        shipper = start(ship, collector, "--queue-limit", "64k", stdin=file)
        first = collector.receive(1000)
        shipper.signal(number)
        result = shipper.finish()
    said = re.search(
        r"^zmqpush\.py: standard input was read up to byte (\d+) of 200000000$", result.stderr, re.M
    )
    assert (result.status, first) == (1, lines(1000, size=99))
    assert said, result.stderr
    assert int(said[1]) % 100 == 0, "at the beginning of a line, from where one can go on"
    assert result.processed * 100 <= int(said[1]) < 200_000_000


@BOTH
def test_a_file_that_was_read_to_its_end_is_status_0(
    number: signal.Signals,
    endpoint: str,
    collect: Callable[..., Collector],
    ship: Ship,
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.write_bytes(text(lines(100)))
    with path.open("rb") as file:
        shipper = ship("-c", endpoint, "--format", "raw", stdin=file)
        wait_until_acts_on(shipper.pid, number)
        wait_until_asleep(shipper.pid)
        shipper.signal(number)
    assert collect(endpoint).receive(100) == lines(100)
    result = shipper.finish()
    assert (result.status, result.processed) == (0, 100)
    assert "standard input" not in result.stderr


def number_in(pattern: str, stderr: str) -> int:
    """The number in what it said; 0 if it did not say that."""
    said = re.search(pattern, stderr)
    return int(said[1]) if said else 0


@BOTH
def test_under_load_every_line_is_sent_or_told(
    number: signal.Signals, collector: Collector, ship: Ship
) -> None:
    """The writer goes on until nobody reads any more: what it could write is in the counts."""
    reader, writer = os.pipe()
    shipper = start(ship, collector, "--queue-limit", "64k", stdin=reader)
    os.close(reader)
    written = 0

    def write_on() -> None:
        nonlocal written
        with contextlib.suppress(BrokenPipeError):
            while True:
                written += os.write(writer, b"1234567\n" * 512)

    writing = threading.Thread(target=write_on)
    writing.start()
    collector.receive(10_000)
    shipper.signal(number)
    writing.join(DEADLINE_S)
    assert not writing.is_alive()
    os.close(writer)
    result = shipper.finish()
    waited = number_in(r"messages: (\d+) that waited here", result.stderr)
    too_late = number_in(r"(\d+) bytes of standard input came too late to be read\n", result.stderr)
    assert (result.processed + waited) * 8 + too_late == written
    assert result.status == (1 if waited or too_late else 0)


def test_ctrl_c_sends_all_that_a_writer_who_is_stopped_as_well_has_written(
    endpoint: str, collect: Callable[..., Collector], ship: Ship
) -> None:
    """It writes until it is stopped, a moment after us."""
    reader, writer = os.pipe()
    shipper = ship("-c", endpoint, "--format", "raw", "--queue-limit", "64k", stdin=reader)
    os.close(reader)
    wait_until_acts_on(shipper.pid, signal.SIGINT)
    os.set_blocking(writer, False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += os.write(writer, b"1234567\n" * 512) // 8
    wait_until_asleep(shipper.pid)
    shipper.signal(signal.SIGSTOP)
    wait_until_stopped(shipper.pid)
    shipper.signal(signal.SIGINT)
    os.close(writer)
    shipper.signal(signal.SIGCONT)
    received = collect(endpoint).receive(count)
    result = shipper.finish()
    assert (result.status, set(received), result.processed) == (0, {b"1234567"}, count)


@pytest.fixture
def half_a_line(fifo: Path, collector: Collector, ship: Ship) -> Shipper:
    """A shipper of a FIFO that stays open, which has read half a line."""
    stdin = os.open(fifo, os.O_RDWR)
    shipper = start(ship, collector, stdin=stdin)
    os.write(stdin, b"whole\nhalf")
    os.close(stdin)
    assert collector.receive(1) == [b"whole"]
    wait_until_asleep(shipper.pid)
    return shipper


@BOTH
def test_a_signal_in_the_middle_of_a_line_waits_for_its_end(
    number: signal.Signals, half_a_line: Shipper, collector: Collector, fifo: Path
) -> None:
    half_a_line.signal(number)
    wait_until_taken(half_a_line.pid, number)
    wait_until_asleep(half_a_line.pid)
    begin = time.monotonic()
    with fifo.open("wb") as writer:
        writer.write(b" and half\n")
    assert collector.receive(1) == [b"half and half"]
    assert half_a_line.process.wait(DEADLINE_S) == 0
    if number == signal.SIGINT:
        assert time.monotonic() - begin < 1


@BOTH
def test_a_line_whose_end_does_not_come_in_two_seconds_is_sent_as_it_is(
    number: signal.Signals, half_a_line: Shipper, collector: Collector
) -> None:
    begin = time.monotonic()
    half_a_line.signal(number)
    assert collector.receive(1) == [b"half"]
    assert half_a_line.process.wait(DEADLINE_S) == 0
    assert 1.9 < time.monotonic() - begin < 4


def test_a_second_signal_in_the_middle_of_a_line_tells_what_is_lost(half_a_line: Shipper) -> None:
    half_a_line.signal(signal.SIGINT)
    wait_until_taken(half_a_line.pid, signal.SIGINT)
    wait_until_asleep(half_a_line.pid)
    half_a_line.signal(signal.SIGINT)
    result = half_a_line.finish()
    assert result.status == 1
    assert "gave up 4 bytes of a line that has not ended\n" in result.stderr


def test_the_last_bytes_of_a_writer_that_has_gone_are_no_half_line(
    collector: Collector, ship: Ship
) -> None:
    """At the end of the pipe there is nothing to wait for."""
    shipper = start(ship, collector)
    shipper.write(b"half")
    wait_until_asleep(shipper.pid)
    begin = time.monotonic()
    shipper.signal(signal.SIGINT)
    shipper.end_input()
    assert collector.receive(1) == [b"half"]
    assert shipper.process.wait(DEADLINE_S) == 0
    assert time.monotonic() - begin < 1

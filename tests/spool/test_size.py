"""The backlog is on disk and not in memory; it has a limit, is told, and the disk is given back."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.spool.helpers import (
    assert_delivered,
    feed,
    leave_behind,
    names,
    size_of,
    start_raw,
    wait_until_held_back,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.lines import (
    fill,
    lines,
    text,
    wait_until_pipe_is_empty,
    written_in_background,
)
from tests.support.proc import highest_memory, wait_until_asleep, wakeups
from tests.support.programs import wait_until_read
from tests.support.waiting import wait_until

# ---- the limit --------------------------------------------------------------------------------


@pytest.mark.long
def test_spool_limit_holds_the_writer_back_and_lets_it_go_on(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    options = ("--format", "raw", "--spool", str(directory), "--spool-limit", "1M")
    shipper = ship("-c", endpoint, *options)
    written = fill(shipper, 20_000_000)
    pipe, one_read = 2**20, 262_144
    assert 1_000_000 < written < 2**20 + pipe + one_read
    assert size_of(directory) < 5_000_000
    rest = b"x" * 98 + b"\n"
    with written_in_background(shipper, b"\n" + rest * 50_000):
        collector = collect(endpoint)
        whole, part = divmod(written, 100)
        received = collector.receive(whole + 1 + 50_000)
    assert received[:whole] == (lines(1000, size=99) * (whole // 1000 + 1))[:whole]
    assert len(received[whole]) == part
    assert set(received[whole + 1 :]) == {rest[:-1]}
    assert_delivered(shipper.finish(), len(received))
    assert names(directory) == []


@pytest.mark.long
def test_spool_limit_counts_what_was_left_behind(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    left = lines(30_000, size=99)
    leave_behind(ship, endpoint, directory, text(left), "--format", "raw")
    options = ("--format", "raw", "--spool", str(directory), "--spool-limit", "1M")
    shipper = ship("-c", endpoint, *options)
    own = lines(20_000, size=99, start=30_000)
    with written_in_background(shipper, text(own)):
        wait_until_held_back(shipper)
        assert collect(endpoint).receive(50_000) == left + own
    assert_delivered(shipper.finish(), 50_000)


# ---- what it tells ----------------------------------------------------------------------------


def counters(line: str, directory: Path) -> tuple[int, int, int, int]:
    """Messages read, handed over, waiting; bytes that wait."""
    said = re.fullmatch(
        r"zmqpush\.py: \d+\.\ds: (\d+) messages read, (\d+) handed over, (\d+) waiting "
        rf"\((\d+) bytes in {re.escape(str(directory))}\), \d connected\n",
        line,
    )
    assert said, line
    read, handed_over, waiting, size = map(int, said.groups())
    return read, handed_over, waiting, size


@pytest.mark.long
def test_sigusr1_tells_what_waits_in_the_directory_what_was_left_behind_included(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    leave_behind(ship, endpoint, directory, text(lines(2000)), "--format", "raw")
    shipper = feed(start_raw(ship, endpoint, directory), text(lines(3000)))
    shipper.signal(signal.SIGUSR1)
    told = counters(shipper.read_stderr_line(), directory)
    assert told == (5000, 0, 5000, 5000 * 9)
    assert collect(endpoint).receive(5000) == lines(2000) + lines(3000)
    wait_until_asleep(shipper.pid)
    shipper.signal(signal.SIGUSR1)
    assert counters(shipper.read_stderr_line(), directory) == (5000, 5000, 0, 0)


def test_stats_tell_what_waits_in_the_directory(directory: Path, endpoint: str, ship: Ship) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--stats", "0.1")
    shipper.write(text(lines(700)))
    told = (0, 0, 0, 0)
    while told[2] < 700:
        told = counters(shipper.read_stderr_line(), directory)
        assert told[:3] in ((0, 0, 0), (700, 0, 700))
    assert told[3] > 700 * 9


@pytest.mark.long
def test_it_sleeps_when_all_was_sent_and_acknowledged(
    directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    expected = lines(3000, size=99)
    shipper = start_raw(ship, eager_collector.endpoint, directory)
    for start in range(0, 3000, 50):
        shipper.write(text(expected[start : start + 50]))
        wait_until_pipe_is_empty(shipper)
    assert eager_collector.receive(3000) == expected
    wait_until(lambda: wakeups(shipper.pid, 1.2) == (0, 0), "it has looked for files of others")
    assert wakeups(shipper.pid, 4.0) == (0, 0)
    assert_delivered(shipper.finish(), 3000)


# ---- memory and disk --------------------------------------------------------------------------


@pytest.mark.long
def test_backlog_is_on_disk_and_not_in_memory(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    count, size = 150_000, 1000
    shipper = start_raw(ship, endpoint, directory)
    for start in range(0, count, 1000):
        shipper.write(text(lines(1000, size=size - 1, start=start)))
    wait_until_read(shipper)
    assert size_of(directory) > count * size
    collector = collect(endpoint)
    for start in range(0, count, 1000):
        assert collector.receive(1000) == lines(1000, size=size - 1, start=start)
    assert highest_memory(shipper.pid) < 100e6
    assert_delivered(shipper.finish(), count)
    assert names(directory) == []


@pytest.mark.long
def test_disk_is_given_back_while_it_runs(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    expected = lines(90_000, size=999)
    shipper = feed(start_raw(ship, endpoint, directory), text(expected))
    assert size_of(directory) > 90e6
    collector = collect(endpoint)
    assert collector.receive(len(expected)) == expected
    wait_until(lambda: size_of(directory) < 45e6, "the disk is given back")
    shipper.write(b"last\n")
    assert collector.receive(1) == [b"last"]
    assert_delivered(shipper.finish(), len(expected) + 1)
    assert names(directory) == []


@pytest.mark.long
def test_signal_while_the_disk_is_given_back_leaves_nothing_behind(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    expected = lines(90_000, size=999)
    shipper = feed(start_raw(ship, endpoint, directory), text(expected))
    assert collect(endpoint).receive(len(expected)) == expected
    shipper.signal(signal.SIGINT)
    assert_delivered(shipper.finish(), len(expected))
    assert names(directory) == []


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_gigabyte_with_the_collector_away_for_the_first_half(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    count, size, block = 10_000_000, 100, 10_000
    pad = b" " * (size - 12)

    def numbered(start: int) -> list[bytes]:
        return [b"%011d%b" % (number, pad) for number in range(start, start + block)]

    shipper = start_raw(ship, endpoint, directory)
    begin = time.monotonic()
    for start in range(0, count // 2, block):
        shipper.write(text(numbered(start)))
    wait_until_read(shipper)
    written_s = time.monotonic() - begin
    on_disk = size_of(directory)
    away_memory = highest_memory(shipper.pid)

    def write_the_rest() -> None:
        for start in range(count // 2, count, block):
            shipper.write(text(numbered(start)))

    writing = threading.Thread(target=write_the_rest)
    writing.start()
    collector = collect(endpoint)
    largest = on_disk
    for start in range(0, count, block):
        assert collector.receive(block) == numbered(start)
        largest = max(largest, size_of(directory))
    writing.join()
    took_s = time.monotonic() - begin
    print(
        f"{count * size / 1e9} GB: half of it on disk in {written_s:.1f} s, all delivered after "
        f"{took_s:.1f} s; at most {largest / 1e6:.0f} MB of disk, {away_memory / 1e6:.1f} MB of "
        f"memory while the collector was away, {highest_memory(shipper.pid) / 1e6:.1f} MB at most"
    )
    begin = time.monotonic()
    wait_until(lambda: size_of(directory) < 45e6, "the disk is given back", deadline_s=120)
    print(f"the disk was given back {time.monotonic() - begin:.1f} s later")
    highest = highest_memory(shipper.pid)
    assert_delivered(shipper.finish(), count)
    assert names(directory) == []
    assert highest < 100e6

"""At the end of input, after a signal and after `--linger`, what waits is kept and told."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.spool.helpers import (
    ANY_PORT,
    assert_delivered,
    feed,
    kept_in,
    messages_in,
    names,
    start_draining,
    stderr_of,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.lines import fill, lines, text
from tests.support.proc import wait_until_acts_on, wait_until_asleep, wait_until_stopped
from tests.support.waiting import DEADLINE_S


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_after_the_end_of_input_ends_it_at_once_and_what_waits_is_kept(
    number: signal.Signals, directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    shipper = ship("app", "-c", endpoint, "--spool", str(directory), "-f", "site=ams")
    shipper.write(text(lines(5000)))
    shipper.end_input()
    assert shipper.read_stderr_line() == (
        f"zmqpush.py: the input has ended; 5000 messages wait in {directory} "
        f"for a collector at {endpoint}\n"
    )
    begin = time.monotonic()
    shipper.signal(number)
    result = shipper.finish()
    assert time.monotonic() - begin < 1.5
    assert (result.status, result.processed) == (0, 0)
    assert stderr_of(result) == kept_in(directory, 5000)
    assert_delivered(start_draining(ship, eager_collector.endpoint, directory).finish(), 5000)
    assert eager_collector.receive(5000) == [
        b'{"message":"%s","type":"app","@pid":%d,"site":"ams"}' % (line, shipper.pid)
        for line in lines(5000)
    ]
    assert eager_collector.is_silent()
    assert names(directory) == []


@pytest.mark.long
def test_sigint_while_input_goes_on_keeps_what_is_in_the_pipe(
    directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory))
    wait_until_acts_on(shipper.pid, signal.SIGINT)
    wait_until_asleep(shipper.pid)
    shipper.signal(signal.SIGSTOP)
    wait_until_stopped(shipper.pid)
    shipper.write(text(lines(5000)))
    shipper.signal(signal.SIGINT)
    begin = time.monotonic()
    shipper.signal(signal.SIGCONT)
    assert shipper.process.wait(DEADLINE_S) == 0
    assert time.monotonic() - begin < 1.5
    assert shipper.finish().stderr == kept_in(directory, 5000)
    start_draining(ship, eager_collector.endpoint, directory)
    assert eager_collector.texts(5000) == [line.decode() for line in lines(5000)]


@pytest.mark.long
def test_sigterm_reads_on_and_keeps_what_comes_until_the_end_of_input(
    directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    shipper = feed(ship("-c", endpoint, "--spool", str(directory)), b"one\n")
    shipper.signal(signal.SIGTERM)
    feed(shipper, b"two\n")
    begin = time.monotonic()
    result = shipper.finish(b"three\n")
    assert time.monotonic() - begin < 1.5
    assert (result.status, stderr_of(result)) == (0, kept_in(directory, 3))
    start_draining(ship, eager_collector.endpoint, directory)
    assert eager_collector.texts(3) == ["one", "two", "three"]


@pytest.mark.long
def test_signal_while_the_collector_does_not_read_tells_what_may_have_arrived(
    directory: Path, collect: Collect, ship: Ship
) -> None:
    deaf = collect(ANY_PORT, RCVHWM=1, RCVBUF=4096)
    options = ("--spool", str(directory), "--sndhwm", "10", "--format", "raw")
    expected = lines(100_000, size=99)
    shipper = feed(ship("-c", deaf.endpoint, *options), text(expected))
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 0
    said = re.search(
        r" (\d+) messages wait in .*, and (\d+) that were handed over", stderr_of(result)
    )
    assert said
    assert stderr_of(result) == kept_in(directory, int(said[1]), int(said[2]))
    assert int(said[1]) + result.processed == len(expected)
    left = messages_in(directory)
    assert left == expected[len(expected) - len(left) :]
    assert int(said[1]) + int(said[2]) == len(left)
    assert int(said[2]) > 0


@pytest.mark.long
def test_signal_while_the_limit_holds_the_writer_back_keeps_what_is_in_the_pipe(
    directory: Path, endpoint: str, ship: Ship
) -> None:
    options = ("--format", "raw", "--spool", str(directory), "--spool-limit", "100k")
    shipper = ship("-c", endpoint, *options)
    written = fill(shipper, 20_000_000)
    assert written > 1_000_000
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 0
    assert stderr_of(result) == kept_in(directory, (written + 99) // 100)


@pytest.mark.long
@pytest.mark.parametrize("linger", ["0", "0.5"])
def test_linger_is_how_long_it_delivers_and_what_waits_then_is_kept(
    linger: str, directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    shipper = feed(
        ship("-c", endpoint, "--spool", str(directory), "--linger", linger), text(lines(5000))
    )
    begin = time.monotonic()
    result = shipper.finish()
    assert float(linger) <= time.monotonic() - begin < float(linger) + 1
    assert (result.status, result.processed) == (0, 0)
    assert stderr_of(result) == kept_in(directory, 5000)
    start_draining(ship, eager_collector.endpoint, directory)
    assert eager_collector.texts(5000) == [line.decode() for line in lines(5000)]


def test_nothing_is_said_at_the_end_where_nothing_waits(
    directory: Path, endpoint: str, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--linger", "0")
    assert_delivered(shipper.finish(b""), 0)
    assert names(directory) == []

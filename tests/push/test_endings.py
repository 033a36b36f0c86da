"""How the shipper ends: it gives up and says how many, or a signal tells it to."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable

import pytest

from tests.push.peers import HandmadePull
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.lines import fill, lines, text, wait_until_pipe_is_empty
from tests.support.proc import (
    wait_until_acts_on,
    wait_until_asleep,
    wait_until_stopped,
    wait_until_taken,
)
from tests.support.programs import Shipper, wait_for_first_lines, wait_until_read
from tests.support.waiting import DEADLINE_S

Collect = Callable[..., Collector]


# ---- giving up --------------------------------------------------------------------------------


@pytest.mark.parametrize(("linger", "least_s"), [("0", 0.0), ("0.3", 0.3)])
def test_linger_gives_up_with_the_exact_count_where_no_collector_ever_was(
    linger: str, least_s: float, endpoint: str, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--linger", linger)
    shipper.write(text(lines(5000)))
    wait_until_read(shipper)
    begin = time.monotonic()
    result = shipper.finish()
    took_s = time.monotonic() - begin
    assert (result.status, result.processed) == (1, 0)
    assert result.stderr == ("zmqpush.py: gave up 5000 messages: no collector ever connected\n")
    assert least_s <= took_s < least_s + 0.7  # and before it says that it waits


def test_end_of_input_that_waits_for_a_second_says_so_once_that_it_waits_and_then_gives_up(
    endpoint: str, ship: Ship
) -> None:
    other = endpoint.rpartition(":")[0] + ":1"
    result = ship("-c", endpoint, "-c", other, "--linger", "1.2").finish(b"x\ny")
    assert result.status == 1
    assert result.stderr == (
        "zmqpush.py: the input has ended; "
        f"2 messages wait for a collector at {endpoint} {other}\n"
        "zmqpush.py: gave up 2 messages: no collector ever connected\n"
    )


def test_nothing_given_up_is_status_0_whatever_the_linger(endpoint: str, ship: Ship) -> None:
    result = ship("-c", endpoint, "--linger", "0").finish(b"")
    assert (result.status, result.processed, result.stderr) == (0, 0, "")


def given_up(stderr: str) -> int:
    """What the shipper says that it has lost at most."""
    match = re.search(r"^zmqpush\.py: gave up at most (\d+) messages: ", stderr, re.M)
    assert match, stderr
    return int(match[1])


@pytest.mark.long
@pytest.mark.parametrize(
    ("count", "size", "arguments"),
    [
        (200_000, 100, []),
        (200_000, 100, ["--batch", "7"]),
        (200_000, 20, ["--sndhwm", "10"]),
        (10_000, 1000, ["--sndhwm", "1"]),
    ],
    ids=["defaults", "batch", "short-lines", "hwm-1"],
)
def test_no_more_is_lost_than_it_says_that_it_gave_up(
    count: int, size: int, arguments: list[str], handmade: HandmadePull, ship: Ship
) -> None:
    """The collector stops taking, and the shipper loses patience; then all that left it comes."""
    shipper = ship("-c", handmade.endpoint, *arguments, "--linger", "0.1")
    handmade.accept()
    shipper.write(text(lines(count, size)))
    wait_until_read(shipper)
    result = shipper.finish()
    assert result.status == 1
    arrived = b"".join(handmade.receive_all()).count(b'"message"')
    assert 0 < arrived < count
    lost = count - arrived
    assert lost <= given_up(result.stderr)


def test_end_of_input_that_waits_for_a_stopped_collector_says_how_many_at_most(
    handmade: HandmadePull, ship: Ship
) -> None:
    count = 100_000
    shipper = ship("-c", handmade.endpoint, "--linger", "1.2")
    handmade.accept()
    shipper.write(text(lines(count, size=100)))
    result = shipper.finish()
    lost = count - len(handmade.receive_all())
    notice, last = result.stderr.splitlines()
    match = re.fullmatch(
        r"zmqpush\.py: the input has ended; up to (\d+) messages are still on their way to (\S+)",
        notice,
    )
    assert match
    assert lost <= int(match[1]) < count
    assert match[2] == handmade.endpoint
    assert given_up(last + "\n") == int(match[1])


@pytest.mark.long
@pytest.mark.parametrize("hwm", [100, 1000, 10_000])
def test_summary_counts_what_was_handed_over(hwm: int, handmade: HandmadePull, ship: Ship) -> None:
    """When it gives up, libzmq is full: it has had what arrived, and about SNDHWM more."""
    count, size = 400_000, 20
    arguments = ("--format", "raw", "--sndhwm", str(hwm), "--linger", "0.1")
    shipper = ship("-c", handmade.endpoint, *arguments)
    handmade.accept()
    shipper.write(text(lines(count, size)))
    wait_until_read(shipper)
    result = shipper.finish()
    arrived = len(handmade.receive_all())
    waited = re.search(r"messages: (\d+) that waited here", result.stderr)
    assert waited
    assert result.processed + int(waited[1]) == count
    being_sent = 8192 // size + 1  # ZMQ_OUT_BATCH_SIZE
    # libzmq tells that there is room when half of SNDHWM has gone, so at least half is there.
    assert arrived + hwm // 2 <= result.processed <= arrived + hwm + being_sent


# ---- signals ----------------------------------------------------------------------------------


@pytest.fixture
def stopped(collector: Collector, ship: Ship) -> Shipper:
    """A connected shipper that is stopped, with lines in its pipe that it has not read."""
    shipper = ship("-c", collector.endpoint, "--format", "raw")
    shipper.write(b"first\n")
    assert collector.receive(1) == [b"first"]
    wait_until_asleep(shipper.pid)
    shipper.signal(signal.SIGSTOP)
    wait_until_stopped(shipper.pid)
    shipper.write(text(lines(5000)))
    return shipper


def test_sigint_takes_what_is_in_the_pipe_and_ends(stopped: Shipper, collector: Collector) -> None:
    stopped.signal(signal.SIGINT)
    stopped.signal(signal.SIGCONT)
    begin = time.monotonic()
    assert collector.receive(5000) == lines(5000)
    assert stopped.process.wait(DEADLINE_S) == 0  # its input is still open
    assert time.monotonic() - begin < 2
    assert stopped.finish().processed == 5001


def test_sigint_takes_what_the_queue_limit_has_kept_out(
    endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--queue-limit", "64k")
    fill(shipper, 1_000_000)
    wait_until_acts_on(shipper.pid, signal.SIGINT)
    shipper.signal(signal.SIGINT)
    wait_until_pipe_is_empty(shipper)
    collector = collect(endpoint)
    result = shipper.finish()
    assert result.status == 0
    assert len(collector.receive(result.processed)) == result.processed
    assert collector.is_silent()


def test_sigterm_reads_on_until_the_end_of_input(stopped: Shipper, collector: Collector) -> None:
    stopped.signal(signal.SIGTERM)
    stopped.signal(signal.SIGCONT)
    assert collector.receive(5000) == lines(5000)
    begin = time.monotonic()
    for number in range(3):
        stopped.write(b"%d\n" % number)
        assert collector.receive(1) == [b"%d" % number]
    result = stopped.finish()
    assert time.monotonic() - begin < 1.5
    assert (result.status, result.processed, result.stderr) == (0, 5004, "")


def test_sigterm_reads_on_for_two_seconds_where_the_input_does_not_end(
    collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", collector.endpoint)
    shipper.write(b"one\n")
    assert collector.texts(1) == ["one"]
    begin = time.monotonic()
    shipper.signal(signal.SIGTERM)
    shipper.write(b"two\n")
    assert collector.texts(1) == ["two"]
    assert shipper.process.wait(DEADLINE_S) == 0
    assert 1.9 < time.monotonic() - begin < 4
    assert shipper.finish().processed == 2


def test_signal_leaves_two_seconds_for_delivery(endpoint: str, ship: Ship) -> None:
    """Each signal, with the input still open and at its end: nobody is there, and it gives up."""
    cases = [
        (ship("-c", endpoint), number, is_open)
        for number in (signal.SIGINT, signal.SIGTERM)
        for is_open in (True, False)
    ]
    for shipper, _, is_open in cases:
        shipper.write(b"one\ntwo\n")
        if not is_open:
            shipper.end_input()
    for shipper, number, _ in cases:
        wait_until_acts_on(shipper.pid, number)
        wait_until_asleep(shipper.pid, 0.05)
    begin = time.monotonic()
    for shipper, number, _ in cases:
        shipper.signal(number)
    for shipper, _, _ in cases:
        assert shipper.process.wait(DEADLINE_S) == 1
        assert 1.9 < time.monotonic() - begin < 4
        result = shipper.finish()
        assert result.processed == 0
        assert result.stderr.endswith(
            "zmqpush.py: gave up 2 messages: no collector ever connected\n"
        )


def test_linger_is_the_limit_after_sigint_too(endpoint: str, ship: Ship) -> None:
    shipper = ship("-c", endpoint, "--linger", "0.2")
    shipper.write(b"one\n")
    wait_until_read(shipper)
    begin = time.monotonic()
    shipper.signal(signal.SIGINT)
    assert shipper.process.wait(DEADLINE_S) == 1
    assert 0.15 < time.monotonic() - begin < 1.5
    assert "gave up 1 messages" in shipper.finish().stderr


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_stops_at_once(first: signal.Signals, endpoint: str, ship: Ship) -> None:
    shipper = ship("-c", endpoint)
    shipper.write(text(lines(3000)))
    wait_until_read(shipper)
    shipper.signal(first)
    wait_until_taken(shipper.pid, first)
    wait_until_asleep(shipper.pid)  # it has acted on it: of two at once the last may be the first
    begin = time.monotonic()
    shipper.signal(signal.SIGINT)
    assert shipper.process.wait(DEADLINE_S) == 1
    assert time.monotonic() - begin < 1
    result = shipper.finish()
    assert result.processed == 0
    assert result.stderr == "zmqpush.py: gave up 3000 messages: no collector ever connected\n"


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_first_milliseconds_loses_nothing(
    number: signal.Signals, collector: Collector, ship: Ship
) -> None:
    """From the first lines of the program on; before them, Python itself would be killed."""
    for _ in range(5):
        reader, writer = os.pipe()
        os.write(writer, text(lines(1000)))
        shipper = ship("-c", collector.endpoint, "--format", "raw", stdin=reader)
        os.close(reader)
        wait_for_first_lines(shipper)
        shipper.signal(number)
        if number == signal.SIGTERM:
            os.close(writer)
        assert collector.receive(1000) == lines(1000)
        result = shipper.finish()
        assert (result.status, result.processed, result.stderr) == (0, 1000, "")
        if number == signal.SIGINT:
            os.close(writer)


def test_sighup_ends_nothing(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint)
    wait_for_first_lines(shipper)
    shipper.signal(signal.SIGHUP)
    shipper.write(b"one\n")
    assert collector.texts(1) == ["one"]
    shipper.signal(signal.SIGHUP)
    shipper.write(b"two\n")
    assert collector.texts(1) == ["two"]
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 2, "")

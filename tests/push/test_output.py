"""What the shipper tells: summary, errors, counters. Where they cannot be written, it ships on."""

from __future__ import annotations

import shlex
import signal
import sys
import time

import pytest

from tests.push.command_line import one_line
from tests.push.counters import ask_counters, read_counters
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.net import NOBODY
from tests.support.proc import wait_until_acts_on
from tests.support.programs import TOP, Result
from tests.support.running import run_program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version


def redirected(redirection: str, *arguments: str, data: bytes = b"") -> Result:
    """Run the program with a shell's redirection, such as `>&-`."""
    words = [sys.executable, str(TOP / "zmqpush.py"), *arguments]
    return run_program(["sh", "-c", f"exec {shlex.join(words)} {redirection}"], data)


def test_quiet_is_no_summary(collector: Collector, ship: Ship) -> None:
    for option in ("-q", "--quiet"):
        result = ship("-c", collector.endpoint, option).finish(b"x\n")
        assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert collector.texts(2) == ["x", "x"]


def test_a_closed_stdout_is_no_failure(collector: Collector) -> None:
    result = redirected(">&-", "-c", collector.endpoint, data=b"x\n")
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert collector.texts(1) == ["x"]


def test_a_stdout_that_nobody_reads_is_no_failure(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint)
    assert shipper.process.stdout
    shipper.process.stdout.close()
    shipper.process.stdout = None
    result = shipper.finish(b"x\n")
    assert (result.status, result.stderr) == (0, "")
    assert collector.texts(1) == ["x"]


def test_a_full_stdout_is_told_and_no_failure(collector: Collector) -> None:
    result = redirected(">/dev/full", "-c", collector.endpoint, data=b"x\n")
    assert (result.status, result.stdout) == (0, "")
    assert "No space left" in one_line(result.stderr)
    assert collector.texts(1) == ["x"]


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_takes_nothing_is_no_failure(stderr: str, collector: Collector) -> None:
    result = redirected(stderr, "-c", collector.endpoint, "--max-line", "4", data=b"abcdef\n")
    assert (result.status, result.processed) == (0, 2)
    assert collector.texts(2) == ["abcd", "ef"]


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_bad_use_is_status_2_where_nobody_can_be_told(stderr: str) -> None:
    result = redirected(stderr, "--frobnicate")
    assert (result.status, result.stdout, result.stderr) == (2, "", "")


def test_a_closed_stdin_is_the_end_of_input(collector: Collector) -> None:
    result = redirected("<&-", "-c", collector.endpoint)
    assert (result.status, result.processed, result.stderr) == (0, 0, "")
    assert collector.is_silent()


def test_all_three_closed_is_the_end_of_input_too(collector: Collector) -> None:
    result = redirected("<&- >&- 2>&-", "-c", collector.endpoint)
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert collector.is_silent()
    assert redirected("<&- >&- 2>&-", "--frobnicate").status == 2


def test_with_stdout_and_stderr_closed_lines_are_shipped(collector: Collector) -> None:
    result = redirected(">&- 2>&-", "-c", collector.endpoint, "--stats", "0.01", data=b"x\n")
    assert result.status == 0
    assert collector.texts(1) == ["x"]


# ---- counters ---------------------------------------------------------------------------------


def test_stats_is_a_line_of_counters_again_and_again(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint, "--stats", "0.05")
    assert read_counters(shipper).read == 0
    shipper.write(b"a\nb\nc\n")
    collector.receive(3)
    wait_until(lambda: read_counters(shipper) == (3, 3, 0, 0, 1), "all is counted")
    shipper.write(b"d\n")
    wait_until(lambda: read_counters(shipper) == (4, 4, 0, 0, 1), "and counted again")


def test_stats_come_as_often_as_asked(ship: Ship) -> None:
    shipper = ship("-c", NOBODY, "--stats", "0.1")
    read_counters(shipper)
    begin = time.monotonic()
    for _ in range(5):
        read_counters(shipper)
    assert time.monotonic() - begin > 0.4


def test_sigusr1_asks_for_the_counters_at_once(ship: Ship) -> None:
    shipper = ship("-c", NOBODY, "--linger", "0")
    shipper.write(b"1234\n" * 10)
    wait_until_acts_on(shipper.pid, signal.SIGUSR1)
    wait_until(lambda: ask_counters(shipper).read == 10, "all is read")
    assert ask_counters(shipper) == (10, 0, 10, 50, 0)
    assert shipper.finish().status == 1

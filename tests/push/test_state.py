"""A running shipper tells its state when that changes, and sparingly while it lasts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.push.peers import StartPrinter
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.proc import wait_until_asleep
from tests.support.programs import Shipper

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


ALONE_S = 5.5  # after which it says that nobody is there
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def told(shipper: Shipper) -> str:
    """The next line of its state, without the time."""
    line = shipper.read_stderr_line()
    match = re.fullmatch(rf"zmqpush\.py: {TIME} (.+)\n", line)
    assert match, line
    return match[1]


@pytest.mark.parametrize("options", [[], ["--ack"]])
def test_no_collector_is_told_after_five_seconds_and_that_one_came(
    options: list[str], endpoint: str, collect: Callable[..., Collector], ship: Ship
) -> None:
    begin = time.monotonic()
    shipper = ship("-c", endpoint, *options)
    shipper.write(b"one\ntwo\n")
    assert told(shipper) == f"no collector at {endpoint}; 2 messages wait"
    assert 5 < time.monotonic() - begin < 8
    shipper.write(b"three\n")
    assert told(shipper) == f"no collector at {endpoint}; 3 messages wait"
    assert 15 < time.monotonic() - begin < 19, "sparingly"
    if not options:
        collector = collect(endpoint)
        assert re.fullmatch(r"connected; \d messages wait", told(shipper))
        assert collector.texts(3) == ["one", "two", "three"]


@pytest.mark.parametrize("spooled", [False, True], ids=["", "spool"])
def test_a_collector_that_goes_is_told(
    spooled: bool, endpoint: str, start_printer: StartPrinter, ship: Ship, tmp_path: Path
) -> None:
    printer = start_printer(endpoint)
    spool = str(tmp_path / "spool")
    shipper = ship("-c", endpoint, *["--spool", spool] * spooled)
    place = f" in {spool}" if spooled else ""
    shipper.write(b"one\n")
    printer.receive_until(b'{"message":"one","type":"syslog","@pid":%d}' % shipper.pid)
    wait_until_asleep(shipper.pid, for_s=ALONE_S)  # and says nothing
    printer.kill()
    assert told(shipper) == f"no collector at {endpoint}; 0 messages wait{place}"
    start_printer(endpoint)
    assert told(shipper) == "connected; 0 messages wait"
    result = shipper.finish()
    assert (result.status, result.stderr) == (0, "")


def test_a_peer_that_takes_nothing_is_no_collector(ship: Ship, pub: str) -> None:
    """Its connections come and go: that is no reason to wait for longer."""
    shipper = ship("-c", pub)
    assert shipper.read_stderr_line().endswith(
        f"{pub} is no plain collector: another socket, or one with CURVE?\n"
    )
    assert told(shipper) == f"no collector at {pub}; 0 messages wait"


def test_the_wait_at_the_end_of_input_is_told_again_with_what_would_end_it(
    endpoint: str, ship: Ship
) -> None:
    shipper = ship("-c", endpoint)
    shipper.write(b"one\n")
    shipper.end_input()
    said = f"zmqpush.py: the input has ended; 1 messages wait for a collector at {endpoint}"
    assert shipper.read_stderr_line() == f"{said}\n"
    assert shipper.read_stderr_line() == f"{said}; --linger SECONDS would end that\n"

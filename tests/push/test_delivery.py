"""Lines get to the collector in order, or wait: it comes late, stops, goes, is slow, is cut off.

What the shipper holds is told by the system: bytes in a connection (/proc/net/tcp), in memory.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.push.peers import StartPrinter
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.lines import lines, text, written_in_background
from tests.support.net import kernel_holds
from tests.support.network import Network
from tests.support.proc import memory, wait_until_asleep
from tests.support.programs import wait_until_connected, wait_until_read
from tests.support.running import python_by

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

Collect = Callable[..., Collector]


def test_collector_may_come_later(endpoint: str, collect: Collect, ship: Ship) -> None:
    shipper = ship("-c", endpoint, "--format", "raw")
    expected = lines(50_000)
    shipper.write(text(expected))
    wait_until_read(shipper)
    collector = collect(endpoint)
    assert collector.receive(50_000) == expected
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 50_000, "")


def test_collector_may_come_after_the_end_of_input(
    endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--format", "raw")
    expected = lines(3000)
    shipper.write(text(expected))
    shipper.end_input()
    notice = shipper.read_stderr_line()
    collector = collect(endpoint)
    assert collector.receive(3000) == expected
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 3000, "")
    assert notice == (
        f"zmqpush.py: the input has ended; 3000 messages wait for a collector at {endpoint}\n"
    )


@pytest.mark.long
def test_stopped_collector_gets_everything_in_order_when_it_goes_on(
    endpoint: str, start_printer: StartPrinter, ship: Ship
) -> None:
    collector = start_printer(endpoint)
    shipper = ship("-c", endpoint, "--format", "raw")
    expected = lines(60_000, size=400)
    shipper.write(text(expected[:100]))
    assert collector.receive_until(expected[99]) == expected[:100]
    collector.signal(signal.SIGSTOP)
    shipper.write(text(expected[100:]))
    wait_until_read(shipper)
    assert memory(shipper.pid) > 10e6
    collector.signal(signal.SIGCONT)
    assert collector.receive_until(expected[-1]) == expected[100:]
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 60_000, "")


@pytest.mark.long
def test_collector_that_stops_again_and_again_gets_everything_in_order(
    endpoint: str, start_printer: StartPrinter, ship: Ship
) -> None:
    collector = start_printer(endpoint)
    shipper = ship("-c", endpoint, "--format", "raw", "--sndhwm", "50")
    expected = lines(100_000, size=200)
    chance = random.Random(2120)
    received: list[bytes] = []
    with written_in_background(shipper, text(expected)):
        while len(received) < len(expected):
            collector.signal(signal.SIGSTOP)
            time.sleep(chance.random() * 0.02)
            collector.signal(signal.SIGCONT)
            upto = min(len(received) + chance.randrange(1, 20_000), len(expected)) - 1
            received += collector.receive_until(expected[upto])
    assert received == expected
    assert shipper.finish().processed == len(expected)


@pytest.mark.long
def test_killed_collector_loses_what_was_in_flight_and_nothing_that_waited(
    endpoint: str, start_printer: StartPrinter, ship: Ship
) -> None:
    size, hwm = 100, 100
    expected = lines(100_000, size)
    collector = start_printer(endpoint)
    shipper = ship("-c", endpoint, "--format", "raw", "--sndhwm", str(hwm))
    shipper.write(text(expected[:1000]))
    assert collector.receive_until(expected[999]) == expected[:1000]
    collector.signal(signal.SIGSTOP)
    shipper.write(text(expected[1000:]))
    wait_until_read(shipper)
    frame = size + 2  # RFC 23: flags, and the size in one byte
    batch = 8192  # bytes that libzmq takes or gives at once
    in_flight = (kernel_holds(int(endpoint.rpartition(":")[2])) + 2 * batch) // frame
    in_flight += hwm + 1000  # and the collector's own ZMQ_RCVHWM
    assert in_flight < len(expected) / 2, "most of it waits in the shipper"
    collector.kill()
    received = start_printer(endpoint).receive_until(expected[-1])
    result = shipper.finish()
    assert (result.status, result.processed) == (0, len(expected))
    assert received == expected[-len(received) :]
    lost = len(expected) - 1000 - len(received)
    assert lost <= in_flight


def test_what_waits_when_the_input_ends_after_the_collector_was_killed_arrives(
    endpoint: str, collect: Collect, ship: Ship
) -> None:
    collector = collect(endpoint)
    shipper = ship("-c", endpoint, "--format", "raw")
    shipper.write(b"first\n")
    assert collector.receive(1) == [b"first"]
    collector.close()
    wait_until_connected(shipper, 0)
    expected = lines(5000)  # some of them in libzmq, some here
    shipper.write(text(expected))
    shipper.end_input()
    wait_until_asleep(shipper.pid)
    assert collect(endpoint).receive(5000) == expected
    result = shipper.finish()
    assert (result.status, result.processed) == (0, 5001)


@pytest.mark.long
def test_collector_that_comes_and_goes_gets_nothing_twice_or_out_of_order(
    endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--format", "raw")
    expected = lines(300_000, size=100)  # each that goes takes some MB with it
    received: list[bytes] = []
    with written_in_background(shipper, text(expected)):
        for taken in (1, 10, 100, 1000, 5000, 10_000):
            collector = collect(endpoint)
            received += collector.receive(taken)
            collector.close()
        collector = collect(endpoint)
    # All the rest may have been in flight to a collector that was closed: send until one arrives.
    last = b"~"  # sorts after the numbers
    while received[-1] != last:
        last += b"~"
        shipper.write(text([last]))
        while not collector.is_silent():
            received += collector.receive(1)
    assert received == sorted(set(received))
    assert shipper.finish().processed == len(expected) + len(last) - 1


def test_slow_collector_gets_everything_in_order(collect: Collect, ship: Ship) -> None:
    collector = collect(RCVHWM=10, RCVBUF=4096)
    shipper = ship("-c", collector.endpoint, "--format", "raw", "--sndhwm", "10")
    expected = lines(6000, size=2000)
    received: list[bytes] = []
    begin = time.monotonic()
    with written_in_background(shipper, text(expected)):
        while len(received) < len(expected):  # 5,000 a second
            received += collector.receive(50)
            time.sleep(max(0, begin + len(received) / 5000 - time.monotonic()))
    assert received == expected
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 6000, "")


@pytest.mark.long
@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_empty_messages_keep_their_order_under_pressure(
    transport: str, tmp_path: Path, collect: Collect, ship: Ship
) -> None:
    """A message that has to wait stays in its place, an empty one too."""
    chance = random.Random(2120)
    expected = [
        line
        for number in range(3000)
        for line in [b"%d" % number * chance.choice((1, 1000)), *[b""] * chance.randrange(10)]
    ]
    place = {"tcp": "tcp://127.0.0.1:*", "ipc": f"ipc://{tmp_path}/pull"}[transport]
    collector = collect(place, RCVHWM=1, RCVBUF=4096)
    shipper = ship("-c", collector.endpoint, "--format", "raw", "--sndhwm", "3")
    received: list[bytes] = []
    with written_in_background(shipper, text(expected)):
        while len(received) < len(expected):
            received += collector.receive(min(1000, len(expected) - len(received)))
            time.sleep(0.001)  # slower than we are
    assert received == expected
    assert shipper.finish().processed == len(expected)


@pytest.mark.long
@pytest.mark.parametrize("end", ["shipper", "collector"])
def test_lines_wait_while_the_network_is_cut_and_arrive_when_it_is_mended(
    end: str, network: Network, tmp_path: Path, start_printer: StartPrinter, ship: Ship
) -> None:
    endpoint = f"tcp://{network.COLLECTOR}:2120"
    collector = start_printer(endpoint, *network.inside(network.collector))
    there = python_by(tmp_path, " ".join(network.inside(network.shipper)))
    shipper = ship("-c", endpoint, "--format", "raw", executable=there)
    expected = lines(60_000, size=100)
    shipper.write(text(expected[:1000]))
    assert collector.receive_until(expected[999]) == expected[:1000]
    cut = getattr(network, end)
    network.set_cable(cut, "down")
    shipper.write(text(expected[1000:]))
    wait_until_read(shipper)
    network.set_cable(cut, "up")
    assert collector.receive_until(expected[-1]) == expected[1000:]
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 60_000, "")

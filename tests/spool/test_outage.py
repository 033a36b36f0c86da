"""Without --ack, too, nothing that was journaled is lost before the other machine has it.

The network is cut, the collector stands still, the shipper is killed or loses its power: a row may
go only when it has left this machine. What it then may still cost is in docs/guarantees.md.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.spool.helpers import feed, names, start_draining, start_raw
from tests.support.aliases import Ship
from tests.support.lines import lines, text, written_in_background
from tests.support.network import Network
from tests.support.proc import wait_until_asleep, wait_until_stopped
from tests.support.programs import PRINTER, Shipper, wait_until_connected, wait_until_read
from tests.support.running import python_by
from tests.support.waiting import wait_until

COUNT = 100_000
PATIENCE = 3  # of TCP: it gives up after about 3 s
DEATH_S = 60.0  # of a connection, at most


class Reader:
    """A collector in a process of its own, which writes what comes to a file."""

    def __init__(self, path: Path, endpoint: str, *within: str) -> None:
        self._path = path
        with path.open("wb") as file:
            command = [*within, sys.executable, str(PRINTER), "--bind", endpoint]
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE)
        assert self._process.stderr
        self.endpoint = self._process.stderr.readline().decode().strip()
        assert self.endpoint, "it is not bound"

    def received(self) -> list[bytes]:
        return self._path.read_bytes().split(b"\n")[:-1]

    def wait_for(self, line: bytes) -> None:
        wait_until(lambda: line in self.received(), f"{line!r} has come", deadline_s=DEATH_S)

    def wait_until_idle(self) -> None:
        """Wait until it has read all that its kernel had."""
        wait_until_asleep(self._process.pid, for_s=0.5)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        wait_until_stopped(self._process.pid)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it; may be called again."""
        self._process.kill()
        self._process.wait()
        assert self._process.stderr
        self._process.stderr.close()


Read = Callable[..., Reader]


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """Makes collectors; all are killed at the end."""
    readers: list[Reader] = []

    def start(endpoint: str = "tcp://127.0.0.1:*", *within: str) -> Reader:
        path = tmp_path / f"received-{len(readers)}"
        readers.append(Reader(path, endpoint, *within))
        return readers[-1]

    yield start
    for reader in readers:
        reader.kill()


class Hosts:
    """A shipper's and a collector's."""

    def __init__(self, network: Network, folder: Path, ship: Ship, read: Read) -> None:
        self._network = network
        self._ship = ship
        self._inside: dict[str, Any] = {
            "executable": python_by(folder, " ".join(network.inside(network.shipper)))
        }
        network.set_patience(network.shipper, PATIENCE)
        here = network.inside(network.collector)
        self.collector = read(f"tcp://{network.COLLECTOR}:2120", *here)
        self.directory = folder / "spool"

    def start(self) -> Shipper:
        options = ("-c", self.collector.endpoint, "--spool", str(self.directory))
        return self._ship(*options, "--format", "raw", **self._inside)

    def cut(self) -> None:
        self._network.set_cable(self._network.shipper, "down")

    def mend(self) -> None:
        self._network.set_cable(self._network.shipper, "up")

    def wait_until_kernel_has_given_up(self) -> None:
        """Wait until no connection is left at the shipper's."""
        command = [*self._network.inside(self._network.shipper), "cat", "/proc/net/tcp"]

        def connections() -> list[bytes]:
            rows = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
            return [row for row in rows[1:] if row.split()[3] != b"06"]  # TIME_WAIT

        wait_until(lambda: not connections(), "no connection", deadline_s=DEATH_S)


@pytest.fixture
def hosts(network: Network, tmp_path: Path, ship: Ship, read: Read) -> Hosts:
    return Hosts(network, tmp_path, ship, read)


def started(hosts: Hosts, expected: list[bytes]) -> Shipper:
    """A shipper that has delivered the first 1,000."""
    shipper = hosts.start()
    shipper.write(text(expected[:1000]))
    hosts.collector.wait_for(expected[999])
    return shipper


def at_full_speed(shipper: Shipper, some: list[bytes], collectors: list[Reader]) -> None:
    """Send `some`: the kernels make room for a fast sender. Some of them may still be under way."""
    with written_in_background(shipper, text(some)):
        wait_until(
            lambda: sum(len(each.received()) for each in collectors) > len(some) // 2, "half of it"
        )


def first_times(received: list[bytes]) -> list[bytes]:
    return list(dict.fromkeys(received))


@pytest.mark.long
@pytest.mark.timeout(180)
def test_nothing_is_lost_where_one_of_two_collectors_stands_still_and_the_shipper_is_killed(
    directory: Path, read: Read, ship: Ship
) -> None:
    collectors = [read(), read()]
    endpoints = [word for each in collectors for word in ("-c", each.endpoint)]
    options = ("--spool", str(directory), "--format", "raw")
    shipper = ship(*endpoints, *options)
    wait_until_connected(shipper, 2)
    expected = lines(COUNT, size=200)
    at_full_speed(shipper, expected[:60_000], collectors)
    collectors[1].stop()
    before = len(collectors[0].received())
    with written_in_background(shipper, text(expected[60_000:])):
        pass  # until all of it is taken; the last lines may wait for the one that stands still
    wait_until_read(shipper)
    wait_until(lambda: len(collectors[0].received()) > before, "sent past it")
    shipper.stop()
    collectors[1].go_on()
    collectors[1].wait_until_idle()
    collectors[1].kill()
    last = start_draining(ship, collectors[0].endpoint, directory).finish()
    assert last.status == 0
    collectors[0].wait_until_idle()
    received = [line for each in collectors for line in each.received()]
    print(
        f"{len(set(received))} of {COUNT} came, {len(received) - len(set(received))} of them twice"
    )
    assert sorted(set(received)) == expected
    assert names(directory) == []


@pytest.mark.long
@pytest.mark.timeout(180)
def test_nothing_is_lost_where_the_network_is_away_for_longer_than_tcp_tries(hosts: Hosts) -> None:
    expected = lines(COUNT)
    shipper = started(hosts, expected)
    hosts.cut()
    with written_in_background(shipper, text(expected[1000:])):
        wait_until_connected(shipper, 0)
        hosts.mend()
    result = shipper.finish(deadline_s=DEATH_S)
    assert (result.status, result.processed) == (0, COUNT)
    hosts.collector.wait_for(expected[-1])
    received = hosts.collector.received()
    print(f"{len(received) - len(set(received))} of {COUNT} came twice")
    assert first_times(received) == expected
    assert names(hosts.directory) == []


@pytest.mark.long
@pytest.mark.timeout(180)
def test_nothing_is_lost_where_the_power_is_while_the_collector_lags(hosts: Hosts) -> None:
    expected = lines(COUNT, size=200)
    shipper = hosts.start()
    at_full_speed(shipper, expected[:60_000], [hosts.collector])
    hosts.collector.stop()
    feed(shipper, text(expected[60_000:]))
    hosts.cut()
    shipper.stop()
    hosts.wait_until_kernel_has_given_up()  # as it would have at once
    hosts.collector.go_on()
    hosts.collector.wait_until_idle()
    hosts.mend()
    before = len(hosts.collector.received())
    assert before < COUNT
    assert hosts.start().finish(deadline_s=DEATH_S).status == 0
    hosts.collector.wait_for(expected[-1])
    received = hosts.collector.received()
    print(f"{before} of {COUNT} had come, {len(received) - len(set(received))} came twice")
    assert first_times(received) == expected
    assert names(hosts.directory) == []


@pytest.mark.long
@pytest.mark.timeout(180)
def test_end_of_input_waits_for_the_network_and_what_the_kernel_held_is_sent_again(
    hosts: Hosts,
) -> None:
    expected = lines(1500)
    shipper = started(hosts, expected)
    hosts.cut()
    shipper.write(text(expected[1000:]))
    shipper.end_input()
    said = shipper.read_stderr_line()
    assert "the input has ended; up to " in said
    hosts.wait_until_kernel_has_given_up()
    assert shipper.process.poll() is None
    hosts.mend()
    result = shipper.finish(deadline_s=DEATH_S)
    assert (result.status, result.processed) == (0, 1500)
    hosts.collector.wait_for(expected[-1])
    assert first_times(hosts.collector.received()) == expected
    assert names(hosts.directory) == []


@pytest.mark.long
@pytest.mark.timeout(180)
def test_end_of_input_without_a_network_keeps_what_the_kernel_held(hosts: Hosts) -> None:
    expected = lines(1500)
    shipper = started(hosts, expected)
    hosts.cut()
    shipper.write(text(expected[1000:]))
    shipper.end_input()
    assert "the input has ended; up to " in shipper.read_stderr_line()
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 0
    assert "that were handed over and may have arrived: the next start sends them" in result.stderr
    hosts.wait_until_kernel_has_given_up()
    hosts.mend()
    assert hosts.start().finish(b"").status == 0
    hosts.collector.wait_for(expected[-1])
    assert first_times(hosts.collector.received()) == expected


@pytest.mark.long
@pytest.mark.timeout(180)
def test_what_the_collectors_kernel_had_and_nobody_read_is_lost_and_no_more(
    directory: Path, read: Read, ship: Ship
) -> None:
    """What is left to lose, as docs/guarantees.md says; `--ack` is the remedy."""
    expected = lines(COUNT, size=200)
    collector = read()
    shipper = start_raw(ship, collector.endpoint, directory)
    at_full_speed(shipper, expected[:60_000], [collector])
    collector.stop()
    feed(shipper, text(expected[60_000:]))
    collector.kill()
    before = collector.received()
    collector = read(collector.endpoint)
    assert shipper.finish(deadline_s=DEATH_S).status == 0
    collector.wait_for(expected[-1])
    received = collector.received()
    came = {*before, *received}
    lost = [line for line in expected if line not in came]
    print(f"{len(lost)} of {COUNT} were lost with the collector, {len(lost) * 200} bytes")
    first = expected.index(received[0])
    assert lost == expected[len(before) : first]  # one gap, and what follows is in order
    assert first_times(received) == expected[first:]

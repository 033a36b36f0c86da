"""How lines get to the collector, or wait for it: in order, without polling, and counted.

What the shipper holds is told by the system: bytes in a pipe (FIONREAD), in a connection
(/proc/net/tcp), in memory (VmRSS), and how often its threads were woken (context switches).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support.collector import Collector
from tests.support.lines import fill, lines, text, wait_until_pipe_is_empty
from tests.support.net import free_endpoint, kernel_holds
from tests.support.proc import (
    cpu_s,
    has_signal,
    memory,
    wait_until_acts_on,
    wait_until_asleep,
    wait_until_at_rest,
    wait_until_stopped,
    wait_until_taken,
    wakeups,
)
from tests.support.programs import PRINTER, Shipper, wait_until_connected, wait_until_read
from tests.support.running import python_by
from tests.support.waiting import DEADLINE_S, wait_until

Ship = Callable[..., Shipper]
Collect = Callable[..., Collector]


# ---- what the tests look at -------------------------------------------------------------------


@pytest.fixture
def endpoint() -> str:
    """Where nobody listens yet, nor will anybody else."""
    return free_endpoint()


def host_of(endpoint: str) -> str:
    return endpoint[len("tcp://") :].rpartition(":")[0].strip("[]")


class Printer:
    """tests/support/pull_printer.py: a collector that can be stopped and killed."""

    def __init__(self, endpoint: str, *within: str) -> None:
        self.process = subprocess.Popen(
            [*within, sys.executable, str(PRINTER), "--bind", endpoint],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._data = b""
        assert self.process.stderr
        self.endpoint = self.process.stderr.readline().decode().strip()
        assert self.endpoint, "it is not bound"

    def receive_until(self, last: bytes) -> list[bytes]:
        """The messages up to `last`."""
        assert self.process.stdout
        ends_at = time.monotonic() + DEADLINE_S
        pieces = [b"\n" + self._data]
        mark = b"\n" + last + b"\n"
        while mark not in b"".join(pieces[-2:]):
            left_s = ends_at - time.monotonic()
            assert left_s > 0, f"{last!r} has not come"
            if select.select([self.process.stdout], [], [], left_s)[0]:
                piece = os.read(self.process.stdout.fileno(), 1 << 20)
                assert piece, "the collector has ended"
                pieces[-1:] = (
                    [pieces[-1] + piece] if len(pieces[-1]) < 65_536 else [*pieces[-1:], piece]
                )
        before, _, self._data = b"".join(pieces).partition(mark)
        return [*before[1:].split(b"\n"), last] if before else [last]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, and wait until it is stopped if that stops it."""
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            wait_until_stopped(self.process.pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()


@pytest.fixture
def printer() -> Iterator[Callable[..., Printer]]:
    """Starts collectors in processes of their own; all are killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(endpoint: str, *within: str) -> Printer:
            printer = Printer(endpoint, *within)
            stack.callback(printer.kill)
            return printer

        yield start


class HandmadePull:
    """A PULL peer by hand (RFC 23, ZMTP 3.0): reads only when told, and sees the very end."""

    GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x04PULL"

    def __init__(self, address: str) -> None:
        self._listener = socket.socket()
        self._listener.bind((address, 0))
        self._listener.listen()
        self.endpoint = "tcp://{}:{}".format(*self._listener.getsockname())
        self._stream: Any = None

    def accept(self) -> None:
        """Take the next connection, and shake hands."""
        if self._stream:
            self._stream.close()
        self._listener.settimeout(DEADLINE_S)
        connection, _ = self._listener.accept()
        connection.settimeout(DEADLINE_S)
        connection.sendall(self.GREETING + b"\x04%c" % len(self.READY) + self.READY)
        self._stream = connection.makefile("rwb")
        connection.close()
        assert self._read(64)[:1] == b"\xff"
        flags, size = self._read(2)
        assert flags & 4, "a command"
        assert self._read(size).startswith(b"\x05READY")

    def send(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()

    def receive_all(self) -> list[bytes]:
        """The whole messages that come until the connection ends."""
        messages = []
        while len(head := self._read(1)) == 1:
            size = self._read(8 if head[0] & 2 else 1)
            body = self._read(int.from_bytes(size, "big"))
            if len(body) == int.from_bytes(size, "big") and size:
                messages.append(body)
        return messages

    def _read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        return data

    def close(self) -> None:
        self._listener.close()
        if self._stream:
            self._stream.close()


@pytest.fixture
def handmade(endpoint: str) -> Iterator[HandmadePull]:
    peer = HandmadePull(host_of(endpoint))
    yield peer
    peer.close()


class Nonsense:
    """A TCP server that is no ZeroMQ peer: `behave` is done with every connection."""

    def __init__(self, address: str, behave: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server((address, 0))
        self.endpoint = "tcp://{}:{}".format(*self._listener.getsockname())
        self.connections = 0
        self._kept: list[socket.socket] = []
        self._behave = behave
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            self._kept.append(connection)
            with contextlib.suppress(OSError):
                self._behave(connection)

    def close(self) -> None:
        """End it; may be called again."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._kept:
            connection.close()
        self._thread.join()


def send_garbage(connection: socket.socket) -> None:
    connection.sendall(HandmadePull.GREETING[:12] + random.Random(2120).randbytes(10_000))


def send_half_a_greeting(connection: socket.socket) -> None:
    connection.sendall(HandmadePull.GREETING[:20])


def send_half_a_handshake(connection: socket.socket) -> None:
    connection.sendall(HandmadePull.GREETING + b"\x04\x7f\x05READY")


def be_another_type(connection: socket.socket) -> None:
    ready = HandmadePull.READY.replace(b"PULL", b"PUSH")
    connection.sendall(HandmadePull.GREETING + b"\x04%c" % len(ready) + ready)


def say_nothing(connection: socket.socket) -> None:
    """Keep the connection open."""


def close_at_once(connection: socket.socket) -> None:
    connection.close()


NONSENSE = {
    "garbage": send_garbage,
    "half-a-greeting": send_half_a_greeting,
    "half-a-handshake": send_half_a_handshake,
    "another-type": be_another_type,
    "mute": say_nothing,
    "closing": close_at_once,
}


@pytest.fixture(params=NONSENSE)
def nonsense(request: pytest.FixtureRequest, endpoint: str) -> Iterator[Nonsense]:
    server = Nonsense(host_of(endpoint), NONSENSE[request.param])
    yield server
    server.close()


# ---- the collector comes, stops, goes, and is slow --------------------------------------------


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


def test_stopped_collector_gets_everything_in_order_when_it_goes_on(
    endpoint: str, printer: Callable[..., Printer], ship: Ship
) -> None:
    collector = printer(endpoint)
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
    endpoint: str, printer: Callable[..., Printer], ship: Ship
) -> None:
    collector = printer(endpoint)
    shipper = ship("-c", endpoint, "--format", "raw", "--sndhwm", "50")
    expected = lines(100_000, size=200)
    chance = random.Random(2120)
    writing = threading.Thread(target=shipper.write, args=(text(expected),))
    writing.start()
    received: list[bytes] = []
    while len(received) < len(expected):
        collector.signal(signal.SIGSTOP)
        time.sleep(chance.random() * 0.02)
        collector.signal(signal.SIGCONT)
        upto = min(len(received) + chance.randrange(1, 20_000), len(expected)) - 1
        received += collector.receive_until(expected[upto])
    writing.join()
    assert received == expected
    assert shipper.finish().processed == len(expected)


@pytest.mark.long
def test_killed_collector_loses_what_was_in_flight_and_nothing_that_waited(
    endpoint: str, printer: Callable[..., Printer], ship: Ship
) -> None:
    size, hwm = 100, 100
    expected = lines(100_000, size)
    collector = printer(endpoint)
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
    received = printer(endpoint).receive_until(expected[-1])
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


def test_collector_that_comes_and_goes_gets_nothing_twice_or_out_of_order(
    endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--format", "raw")
    expected = lines(100_000, size=100)
    writing = threading.Thread(target=shipper.write, args=(text(expected),))
    writing.start()
    received: list[bytes] = []
    for taken in (1, 10, 100, 1000, 5000, 10_000):
        collector = collect(endpoint)
        received += collector.receive(taken)
        collector.close()
    collector = collect(endpoint)
    writing.join()
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
    writing = threading.Thread(target=shipper.write, args=(text(expected),))
    writing.start()
    received: list[bytes] = []
    begin = time.monotonic()
    while len(received) < len(expected):  # 5,000 a second
        received += collector.receive(50)
        time.sleep(max(0, begin + len(received) / 5000 - time.monotonic()))
    writing.join()
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
    writing = threading.Thread(target=shipper.write, args=(text(expected),))
    writing.start()
    received: list[bytes] = []
    while len(received) < len(expected):
        received += collector.receive(min(1000, len(expected) - len(received)))
        time.sleep(0.001)  # slower than we are
    writing.join()
    assert received == expected
    assert shipper.finish().processed == len(expected)


class Network:
    """Two hosts (network namespaces) and a cable (veth) between them."""

    SHIPPER, COLLECTOR = "10.21.20.1", "10.21.20.2"

    def __init__(self, name: str) -> None:
        self.shipper, self.collector = f"{name}-s", f"{name}-c"

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=DEADLINE_S)

    def set_up(self) -> None:
        for host in (self.shipper, self.collector):
            self.ip("netns", "add", host)
        peer = ("type", "veth", "peer", "name", "cable", "netns", self.collector)
        self.ip("-n", self.shipper, "link", "add", "cable", *peer)
        for host, address in ((self.shipper, self.SHIPPER), (self.collector, self.COLLECTOR)):
            self.ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
            self.set_cable(host, "up")

    def set_cable(self, host: str, state: str) -> None:
        self.ip("-n", host, "link", "set", "cable", state)

    @staticmethod
    def inside(host: str) -> list[str]:
        """The beginning of a command that runs there."""
        return ["ip", "netns", "exec", host]

    def remove(self) -> None:
        for host in (self.shipper, self.collector):
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    network = Network(f"zmqpush-{os.getpid()}")
    try:
        try:
            network.set_up()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield network
    finally:
        network.remove()


@pytest.mark.long
@pytest.mark.parametrize("end", ["shipper", "collector"])
def test_lines_wait_while_the_network_is_cut_and_arrive_when_it_is_mended(
    end: str, network: Network, tmp_path: Path, printer: Callable[..., Printer], ship: Ship
) -> None:
    endpoint = f"tcp://{network.COLLECTOR}:2120"
    collector = printer(endpoint, *network.inside(network.collector))
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


# ---- without polling --------------------------------------------------------------------------


def test_connected_and_idle_nothing_wakes_it(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint)
    shipper.write(b"x\n")
    assert collector.texts(1) == ["x"]
    wait_until_asleep(shipper.pid)
    main, total = wakeups(shipper.pid, 1.0)
    assert main == 0
    assert total <= 1


def test_idle_on_a_terminal_or_fifo_nothing_wakes_it(
    tmp_path: Path, collector: Collector, ship: Ship
) -> None:
    os.mkfifo(tmp_path / "fifo")
    descriptor = os.open(tmp_path / "fifo", os.O_RDWR)
    user, program = os.openpty()
    shippers = [ship("-c", collector.endpoint, stdin=stdin) for stdin in (descriptor, program)]
    os.write(descriptor, b"x\n")
    os.write(user, b"x\n")
    collector.receive(2)
    for shipper in shippers:
        wait_until_asleep(shipper.pid)
    for shipper in shippers:
        main, total = wakeups(shipper.pid, 0.5)
        assert main == 0
        assert total <= 1
    for end in (descriptor, user, program):
        os.close(end)


@pytest.mark.parametrize("limit", ["0", "1M"], ids=["unbounded", "limited"])
def test_blocked_by_its_collector_it_does_not_poll(
    limit: str, handmade: HandmadePull, ship: Ship
) -> None:
    """With a backlog and no room in libzmq it sleeps; with a full pipe behind it, too."""
    shipper = ship("-c", handmade.endpoint, "--queue-limit", limit)
    handmade.accept()
    fill(shipper, 20_000_000)
    wait_until_at_rest(shipper.pid)
    assert wakeups(shipper.pid, 1.0) == (0, 0)


def test_without_a_collector_only_reconnecting_wakes_it(endpoint: str, ship: Ship) -> None:
    shipper = ship("-c", endpoint)
    shipper.write(text(lines(50_000)))
    wait_until_read(shipper)
    main, total = wakeups(shipper.pid, 1.0)
    assert main == 0
    assert total <= 20


@pytest.mark.soak
def test_without_a_collector_it_wakes_less_than_once_a_second(endpoint: str, ship: Ship) -> None:
    shipper = ship("-c", endpoint)
    shipper.write(text(lines(50_000)))
    wait_until_read(shipper)
    wakeups(shipper.pid, 10)  # reconnects have backed off to one every 2 s
    main, total = wakeups(shipper.pid, 20)
    assert main == 0
    assert total < 20


# ---- memory, and the writer held back ---------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("write_size", [500, 1_000_000], ids=["small-writes", "large-writes"])
def test_memory_grows_by_what_waits_and_comes_down_again(
    write_size: int, endpoint: str, collect: Collect, ship: Ship
) -> None:
    size, count = 1000, 150_000
    line = b"x" * (size - 1) + b"\n"
    block = line * 1000
    shipper = ship("-c", endpoint, "--format", "raw")
    shipper.write(b"first\n")
    wait_until_read(shipper)
    at_start = memory(shipper.pid)
    assert shipper.process.stdin
    descriptor = shipper.process.stdin.fileno()
    written = 0
    while written < count * size:
        at = written % len(block)
        written += os.write(descriptor, block[at : at + write_size])
    wait_until_read(shipper)
    grown = memory(shipper.pid) - at_start
    assert count * size * 0.9 < grown < count * size * 1.15
    collector = collect(endpoint)
    assert collector.receive(1) == [b"first"]
    for _ in range(10):
        assert set(collector.receive(count // 10)) == {line[:-1]}
    wait_until_asleep(shipper.pid)
    assert memory(shipper.pid) - at_start < 15e6
    assert shipper.process.poll() is None
    assert shipper.finish().processed == count + 1


def test_queue_limit_holds_the_writer_back_and_lets_it_go_on(
    endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--format", "raw", "--queue-limit", "1M")
    written = fill(shipper, 20_000_000)
    pipe, one_read = 65_536, 262_144
    libzmq = 1000 * 100  # SNDHWM messages
    assert 1_000_000 < written < 2**20 + pipe + one_read + libzmq
    assert memory(shipper.pid) < 60e6
    rest = b"x" * 98 + b"\n"
    writing = threading.Thread(target=shipper.write, args=(b"\n" + rest * 50_000,))
    writing.start()
    collector = collect(endpoint)
    whole, part = divmod(written, 100)
    received = collector.receive(whole + 1 + 50_000)
    assert received[:whole] == (lines(1000, size=99) * (whole // 1000 + 1))[:whole]
    assert len(received[whole]) == part
    assert set(received[whole + 1 :]) == {rest[:-1]}
    writing.join()
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, len(received), "")


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


# ---- where to ---------------------------------------------------------------------------------


class Share:
    """What one of several collectors gets."""

    def __init__(self, has_some: Callable[[], bool], take: Callable[[], bytes]) -> None:
        self.has_some = has_some
        self._take = take
        self.lines: list[bytes] = []

    def take(self) -> None:
        line = self._take()
        if line:
            self.lines.append(line)


def share_out(shipper: Shipper, lines: list[bytes], shares: list[Share]) -> None:
    """Ship `lines` when each collector has had an empty one, which shows that it is there."""

    def all_have_some() -> bool:
        shipper.write(b"\n")
        return all(share.has_some() for share in shares)

    wait_until(all_have_some, "all are there")
    shipper.write(text(lines))

    def all_have_come() -> bool:
        for share in shares:
            while share.has_some():
                share.take()
        return sum(len(share.lines) for share in shares) >= len(lines)

    wait_until(all_have_come, "all lines")


def share_of(collector: Collector) -> Share:
    return Share(lambda: not collector.is_silent(1), lambda: collector.receive(1)[0])


def test_several_collectors_share_the_load(collect: Collect, ship: Ship) -> None:
    collectors = [collect(), collect(), collect()]
    arguments = [word for collector in collectors for word in ("-c", collector.endpoint)]
    shipper = ship(*arguments, "--format", "raw")
    expected = lines(1500)
    shares = [share_of(collector) for collector in collectors]
    share_out(shipper, expected, shares)
    assert sorted(itertools.chain(*(share.lines for share in shares))) == expected
    for share in shares:
        assert share.lines == sorted(share.lines)
        assert len(share.lines) == 500
    assert shipper.finish().status == 0


def test_dead_collector_takes_nothing(endpoint: str, collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", endpoint, "-c", collector.endpoint, "--format", "raw")
    expected = lines(5000)
    result = shipper.finish(text(expected))
    assert collector.receive(5000) == expected
    assert (result.status, result.processed, result.stderr) == (0, 5000, "")


def test_lines_wait_for_the_first_of_several_collectors(
    endpoint: str, collect: Collect, ship: Ship
) -> None:
    """Nothing is handed to those that are not there; the first that comes takes all."""
    other = endpoint.rpartition(":")[0] + ":1"
    shipper = ship("-c", other, "-c", endpoint, "--format", "raw")
    expected = lines(5000)
    shipper.write(text(expected))
    wait_until_read(shipper)
    for half in (expected[:2500], expected[2500:]):
        shipper.write(text(half))
    collector = collect(endpoint)
    assert collector.receive(10_000) == expected * 2
    collector.close()
    wait_until_connected(shipper, 0)
    shipper.write(text(expected))
    wait_until_read(shipper)
    assert collect(endpoint).receive(5000) == expected
    assert shipper.finish().processed == 15_000


def test_collector_that_dies_takes_nothing_any_more(collect: Collect, ship: Ship) -> None:
    stays, dies = collect(), collect()
    shipper = ship("-c", stays.endpoint, "-c", dies.endpoint, "--format", "raw")
    share_out(shipper, [b"one", b"two"], [share_of(stays), share_of(dies)])
    dies.close()
    wait_until_connected(shipper, 1)
    expected = lines(5000)
    shipper.write(text(expected))
    assert stays.receive(5000) == expected
    result = shipper.finish()
    assert (result.status, result.stderr) == (0, "")


@pytest.fixture
def pull() -> Iterator[Callable[[str], zmq.Socket[bytes]]]:
    """Makes PULL sockets that connect."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def connect(endpoint: str) -> zmq.Socket[bytes]:
        puller = context.socket(zmq.PULL)
        puller.setsockopt(zmq.IPV6, 1)
        puller.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        puller.connect(endpoint)
        return puller

    yield connect
    context.destroy(linger=0)


def bound(shipper: Shipper) -> str:
    """The endpoint that it says it is bound to."""
    match = re.fullmatch(r"zmqpush\.py: bound to (\S+)\n", shipper.read_stderr_line())
    assert match
    return match[1]


def test_collectors_may_connect(pull: Callable[[str], zmq.Socket[bytes]], ship: Ship) -> None:
    shipper = ship("-b", "tcp://127.0.0.1:*", "--format", "raw")
    expected = lines(5000)
    shipper.write(text(expected))
    puller = pull(bound(shipper))
    assert [puller.recv() for _ in expected] == expected
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 5000, "")


def test_connecting_collector_may_come_after_the_end_of_input(
    endpoint: str, pull: Callable[[str], zmq.Socket[bytes]], ship: Ship
) -> None:
    shipper = ship("-b", endpoint, "--format", "raw")
    shipper.write(b"x\n")
    wait_until_read(shipper)
    shipper.end_input()
    wait_until_asleep(shipper.pid)
    assert pull(endpoint).recv() == b"x"
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 1, "")


def test_bind_and_connect_together_share_the_load(
    collector: Collector, pull: Callable[[str], zmq.Socket[bytes]], ship: Ship
) -> None:
    shipper = ship("-b", "tcp://127.0.0.1:*", "-c", collector.endpoint, "--format", "raw")
    puller = pull(bound(shipper))
    expected = lines(1000)
    shares = [share_of(collector), Share(lambda: bool(puller.poll(1)), puller.recv)]
    share_out(shipper, expected, shares)
    assert sorted(shares[0].lines + shares[1].lines) == expected
    assert len(shares[0].lines) == 500
    assert shipper.finish().status == 0


@pytest.mark.long
def test_two_shippers_cannot_bind_to_one_address(ship: Ship) -> None:
    first = ship("-b", "tcp://127.0.0.1:*")
    endpoint = bound(first)
    result = ship("-b", endpoint).finish(b"x\n")
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == f"zmqpush.py: {endpoint}: Address already in use\n"


@pytest.mark.long
def test_ipc_reaches_the_collector(tmp_path: Path, collect: Collect, ship: Ship) -> None:
    collector = collect(f"ipc://{tmp_path}/pull")
    expected = lines(100_000)
    shipper = ship("-c", collector.endpoint, "--format", "raw")
    shipper.write(text(expected))
    assert collector.receive(100_000) == expected
    assert shipper.finish().processed == 100_000


def test_ipc_can_be_bound_and_the_place_of_a_dead_one_taken(
    tmp_path: Path, pull: Callable[[str], zmq.Socket[bytes]], ship: Ship
) -> None:
    endpoint = f"ipc://{tmp_path}/push"
    for text_ in (b"one", b"two"):
        shipper = ship("-b", endpoint, "--format", "raw")
        shipper.write(text_ + b"\n")
        with pull(endpoint) as puller:
            assert puller.recv() == text_
        shipper.stop()  # and leaves the socket file behind


def test_ipv6_reaches_the_collector(collect: Collect, ship: Ship) -> None:
    try:
        collector = collect("tcp://[::1]:*")
    except zmq.ZMQError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert "[::1]" in collector.endpoint
    result = ship("-c", collector.endpoint).finish(b"x\n")
    assert collector.texts(1) == ["x"]
    assert result.status == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "*"])
def test_host_name_reaches_the_collector(address: str, collect: Collect, ship: Ship) -> None:
    collector = collect(f"tcp://{address}:*")
    port = collector.endpoint.rpartition(":")[2]
    result = ship("-c", f"tcp://localhost:{port}", "--linger", "5").finish(b"x\n")
    assert (result.status, result.processed, result.stderr) == (0, 1, "")
    assert collector.texts(1) == ["x"]


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """The file that is /etc/hosts for who runs by `elsewhere`; nobody else is asked for names."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    return path


@pytest.fixture
def elsewhere(hosts: Path, tmp_path: Path) -> str:
    """A Python in a mount namespace, in which names are what `hosts` says."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("another /etc/hosts needs root and a mount namespace")
    (tmp_path / "nsswitch.conf").write_text("hosts: files\n")
    mounts = [
        f"mount --bind {shlex.quote(str(tmp_path / name))} /etc/{name}"
        for name in (hosts.name, "nsswitch.conf")
    ]
    mount_all = shlex.quote(" && ".join([*mounts, 'exec "$@"']))
    return python_by(tmp_path, f"unshare --mount sh -c {mount_all} sh")


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_host_name_that_is_in_ipv6_too_reaches_a_collector_in_ipv4(
    address: str, elsewhere: str, collect: Collect, ship: Ship
) -> None:
    """On most machines localhost is ::1 as well, and most collectors do not listen there."""
    collector = collect(f"tcp://{address}:*", IPV6=0)
    port = collector.endpoint.rpartition(":")[2]
    shipper = ship("-c", f"tcp://localhost:{port}", "--linger", "3", executable=elsewhere)
    result = shipper.finish(b"x\n")
    assert (result.status, result.processed, result.stderr) == (0, 1, "")
    assert collector.texts(1) == ["x"]


@pytest.mark.long
@pytest.mark.parametrize("addresses", ["127.0.0.1", "::1", "127.0.0.1 ::1"])
def test_host_name_that_resolves_later_reaches_the_collector(
    addresses: str, hosts: Path, elsewhere: str, collect: Collect, ship: Ship
) -> None:
    """A server that boots may start us before it knows names."""
    try:
        collector = collect(f"tcp://{'[::1]' if addresses == '::1' else '127.0.0.1'}:*")
    except zmq.ZMQError as error:
        pytest.skip(f"no IPv6 here: {error}")
    endpoint = f"tcp://later.invalid:{collector.endpoint.rpartition(':')[2]}"
    shipper = ship("-c", endpoint, executable=elsewhere)
    warning = shipper.read_stderr_line()
    assert warning.startswith(f"zmqpush.py: {endpoint}: ")
    with hosts.open("a") as file:
        file.writelines(f"{address} later.invalid\n" for address in addresses.split())
    shipper.write(b"x\n")
    assert collector.texts(1) == ["x"]
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 1, "")


UNKNOWN = "tcp://" + "a." * 150 + "invalid:2120"  # no name is so long: no server has to be asked


def test_name_that_does_not_resolve_is_one_warning_and_it_goes_on(
    collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", UNKNOWN, "-c", collector.endpoint)
    warning = shipper.read_stderr_line()
    assert warning.startswith(f"zmqpush.py: {UNKNOWN}: ")
    assert warning.endswith("; going on, it is tried again and again\n")
    shipper.write(b"one\ntwo\n")
    assert collector.texts(2) == ["one", "two"]
    wait_until_asleep(shipper.pid)
    main, _ = wakeups(shipper.pid, 0.5)
    assert main == 0
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 2, "")


@pytest.mark.parametrize(
    "endpoint", [UNKNOWN, "tcp://" + "a" * 64 + ".invalid:1", "tcp://host..invalid:1"]
)
def test_name_that_does_not_resolve_may_be_the_only_one(endpoint: str, ship: Ship) -> None:
    shipper = ship("-c", endpoint)
    warning = shipper.read_stderr_line()
    assert warning.startswith(f"zmqpush.py: {endpoint}: ")
    shipper.write(b"one\ntwo\n")
    wait_until_read(shipper)
    assert shipper.process.poll() is None
    shipper.signal(signal.SIGINT)
    wait_until_taken(shipper.pid, signal.SIGINT)
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 1
    assert result.stderr == "zmqpush.py: gave up 2 messages: no collector ever connected\n"


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


def wait_for_first_lines(shipper: Shipper) -> None:
    """Wait until Python has come to our first lines, which hold signals back; not a moment more."""
    while not any(has_signal(shipper.pid, name, signal.SIGTERM) for name in ("SigBlk", "SigCgt")):
        assert shipper.process.poll() is None


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


# ---- peers that talk nonsense -----------------------------------------------------------------


@pytest.mark.long
def test_peer_that_talks_nonsense_is_no_collector(nonsense: Nonsense, ship: Ship) -> None:
    """It does not crash us, or make us spin; what was for it waits, and is counted in the end."""
    shipper = ship("-c", nonsense.endpoint)
    shipper.write(b"one\ntwo\nthree\n")
    wait_until(lambda: nonsense.connections, "connected")
    wait_until_acts_on(shipper.pid, signal.SIGINT)
    cpu_before = cpu_s(shipper.pid)
    _, total = wakeups(shipper.pid, 0.5)
    assert total < 50
    assert cpu_s(shipper.pid) - cpu_before < 0.1
    shipper.signal(signal.SIGINT)
    wait_until_taken(shipper.pid, signal.SIGINT)
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert (result.status, result.processed) == (1, 0)
    assert result.stderr == "zmqpush.py: gave up 3 messages: no collector ever connected\n"


@pytest.mark.long
def test_what_waits_for_a_peer_that_talks_nonsense_goes_to_the_collector_that_takes_its_place(
    nonsense: Nonsense, collect: Collect, ship: Ship
) -> None:
    """A proxy may accept, and hang up, until its collector is there."""
    shipper = ship("-c", nonsense.endpoint, "--format", "raw")
    expected = lines(500)
    shipper.write(text(expected))
    shipper.end_input()
    wait_until(lambda: nonsense.connections, "connected")
    nonsense.close()
    collector = collect(nonsense.endpoint)
    assert collector.receive(500) == expected
    result = shipper.finish()
    assert (result.status, result.processed) == (0, 500)


@pytest.mark.long
def test_peer_that_talks_nonsense_takes_nothing_from_a_collector(
    nonsense: Nonsense, collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", nonsense.endpoint, "-c", collector.endpoint, "--format", "raw")
    wait_until(lambda: nonsense.connections, "connected")
    expected = lines(3000)
    result = shipper.finish(text(expected))
    assert collector.receive(3000) == expected
    assert (result.status, result.processed, result.stderr) == (0, 3000, "")


def test_clients_that_talk_nonsense_do_not_harm_a_bound_shipper(
    pull: Callable[[str], zmq.Socket[bytes]], ship: Ship
) -> None:
    shipper = ship("-b", "tcp://127.0.0.1:*", "--format", "raw")
    endpoint = bound(shipper)
    address = (host_of(endpoint), int(endpoint.rpartition(":")[2]))
    with contextlib.ExitStack() as stack:
        for behave in NONSENSE.values():
            for _ in range(5):
                client = stack.enter_context(socket.create_connection(address))
                with contextlib.suppress(OSError):
                    behave(client)
        expected = lines(3000)
        shipper.write(text(expected))
        puller = pull(endpoint)
        assert [puller.recv() for _ in expected] == expected
        result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 3000, "")


@pytest.mark.soak
def test_collector_with_an_old_libzmq_is_a_collector(ship: Ship) -> None:
    """libzmq 3 speaks ZMTP 2.0 (RFC 15), whose handshake is over with the greeting.

    Whether it is one is known when it has stayed for longer than a handshake may take.
    """
    revision, pull, no_identity = b"\x01", b"\x07", b"\x00\x00"
    greeting = b"\xff" + bytes(8) + b"\x7f" + revision + pull + no_identity
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = "tcp://{}:{}".format(*listener.getsockname())
        shipper = ship("-c", endpoint, "--format", "raw", "--linger", "60")
        listener.settimeout(DEADLINE_S)
        connection, _ = listener.accept()
    with connection:
        connection.sendall(greeting)
        result = shipper.finish(b"one\ntwo\n", deadline_s=60)
        connection.settimeout(DEADLINE_S)
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    assert received.endswith(b"\x00\x03one\x00\x03two")
    assert (result.status, result.processed) == (0, 2)


def test_collector_that_answers_is_not_listened_to(handmade: HandmadePull, ship: Ship) -> None:
    """A PULL peer has nothing to say; what it says nevertheless changes nothing."""
    shipper = ship("-c", handmade.endpoint, "--format", "raw")
    handmade.accept()
    handmade.send(b"\x00\x05hello" * 1000)
    expected = lines(3000)
    result = shipper.finish(text(expected))
    assert handmade.receive_all() == expected
    assert (result.status, result.processed, result.stderr) == (0, 3000, "")

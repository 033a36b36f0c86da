"""Peers that talk nonsense do not harm the shipper, and take nothing from it."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.push.peers import HandmadePull, PullFrom, bound, host_of
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.lines import lines, text
from tests.support.proc import cpu_s, wait_until_acts_on, wait_until_taken, wakeups
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


Collect = Callable[..., Collector]


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


def without_misfit(said: str) -> str:
    """What it said, but for the guess that nonsense may be CURVE: what follows is no less."""
    return re.sub(r"^zmqpush\.py: \S+ is no plain collector: .*\n", "", said, flags=re.M)


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
    said = "zmqpush.py: gave up 3 messages: no collector ever connected\n"
    assert without_misfit(result.stderr) == said


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
    assert (result.status, result.processed) == (0, 3000)
    assert without_misfit(result.stderr) == ""


@pytest.mark.long
def test_clients_that_talk_nonsense_do_not_harm_a_bound_shipper(
    pull_from: PullFrom, ship: Ship
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
        puller = pull_from(endpoint)
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


@pytest.mark.long
def test_collector_that_answers_is_not_listened_to(handmade: HandmadePull, ship: Ship) -> None:
    """A PULL peer has nothing to say; what it says nevertheless changes nothing."""
    shipper = ship("-c", handmade.endpoint, "--format", "raw")
    handmade.accept()
    handmade.send(b"\x00\x05hello" * 1000)
    expected = lines(3000)
    result = shipper.finish(text(expected))
    assert handmade.receive_all() == expected
    assert (result.status, result.processed, result.stderr) == (0, 3000, "")


def test_who_cuts_us_off_at_once_is_tried_more_and_more_seldom(ship: Ship) -> None:
    """Collectors with CURVE may do so, too; it must cost them next to nothing."""
    server = Nonsense("127.0.0.1", close_at_once)
    try:
        shipper = ship("-c", server.endpoint)
        assert "is no plain collector" in shipper.read_stderr_line()
        before = server.connections
        wakeups(shipper.pid, 8.0)
        assert server.connections - before <= 3  # after 2, 4 and 8 s
    finally:
        server.close()

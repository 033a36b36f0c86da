"""A collector that is dead, stopped, silent, or none at all is left for the next one.

One test has the program's real patience, of seconds; in the others it is tenths of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

import zmqpush
from tests.ack.helpers import as_input, texts, trouble
from tests.ack.talking_server import TalkingServer
from tests.support.ack import HEADER, QUESTION
from tests.support.aliases import Ship
from tests.support.ending import end, kill, stop
from tests.support.endpoints import address_of, is_listening
from tests.support.net import free_endpoint
from tests.support.places import InFile, InSqlite, Place, options_of
from tests.support.proc import proc_status, wait_until_asleep, wait_until_woken
from tests.support.waiting import wait_until
from zmqlines.dealer import AckLink

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


@pytest.mark.long
def test_stopped_collector_is_left_for_the_next_and_when_it_wakes_nothing_comes_twice(
    places: list[Place], pull_ack: Ship, ship: Ship
) -> None:
    """With the real times: it is asked after 5 s, and left after 5 more."""
    endpoints = [free_endpoint(), free_endpoint()]
    shared = places[1:]
    first, second = (pull_ack(endpoint, *options_of(shared)) for endpoint in endpoints)
    shipper = ship("--ack", "-c", endpoints[0], "-c", endpoints[1])
    expected = texts(50_000)
    shipper.write(as_input(expected[:1000]))
    for place in shared:
        place.wait_for(1000)
    stop(first)
    started_at = time.monotonic()
    shipper.write(as_input(expected[1000:40_000]))
    for place in shared:
        place.wait_for(40_000, deadline_s=45)
    assert time.monotonic() - started_at > 9.5  # it was given its time
    first.signal(signal.SIGCONT)
    wait_until_asleep(first.pid)
    result = shipper.finish(as_input(expected[40_000:]))
    for place in shared:
        assert place.messages() == expected
    assert (result.status, result.processed, trouble(result)) == (0, 50_000, "")
    # A reply of Redis may have been missed while it was stopped: that is said, and asked for again.
    assert end(first).endswith("zmqpull.py: 1000 events written\n")
    assert end(second) == "zmqpull.py: 49000 events written\n"


@pytest.mark.long
def test_collectors_that_share_nothing_have_everything_between_them(
    hasty: str, tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """Each has what it has once, and in order; some of it the other one may have, too."""
    ends = [(free_endpoint(), InSqlite(tmp_path / name)) for name in ("one.db", "two.db")]
    (one, first), (two, second) = ends
    collectors = [pull_ack(endpoint, *place.options) for endpoint, place in ends]
    shipper = ship("--ack", "-c", one, "-c", two, program=hasty)
    expected = texts(60_000)
    for start in (0, 20_000):
        shipper.write(as_input(expected[start : start + 20_000]))
        wait_until(lambda: first.count() + second.count() >= start + 20_000, "there")  # noqa: B023
        stop(collectors[0])
    collectors[0].signal(signal.SIGCONT)
    wait_until_asleep(collectors[0].pid)
    kill(collectors[1])
    result = shipper.finish(as_input(expected[40_000:]))
    assert (result.status, result.processed) == (0, 60_000)
    arrived = [place.messages() for place in (first, second)]
    for messages in arrived:
        assert messages == sorted(set(messages))
    assert sorted({*arrived[0], *arrived[1]}) == expected
    assert arrived[1]


def test_end_of_a_connection_that_was_left_before_is_no_news() -> None:
    """What the monitor says comes later than we act."""

    async def hear() -> None:
        options = zmqpush.parse_options(zmqpush.build_parser(""), ["--ack"])
        options.curve = None
        link = AckLink(options, zmqpush.make_format(options, 1))
        link.event_received(types.SimpleNamespace(event=zmq.EVENT_DISCONNECTED, value=99))
        assert link.connections == {}

    asyncio.run(hear())


@pytest.fixture
def check_is_left(hasty: str, tmp_path: Path, pull_ack: Ship, ship: Ship) -> Callable[[str], None]:
    """Checks that a line goes to the next collector, where nobody takes it at an endpoint."""

    def check(bad_endpoint: str) -> None:
        endpoint, place = free_endpoint(), InFile(tmp_path / "events")
        pull_ack(endpoint, *place.options)
        result = ship("--ack", "-c", bad_endpoint, "-c", endpoint, program=hasty).finish(b"x\n")
        assert place.messages() == ["x"]
        assert result.status == 0

    return check


@pytest.mark.long
def test_dead_collector_is_left_for_the_next(check_is_left: Callable[[str], None]) -> None:
    check_is_left(free_endpoint())


class Relay:
    """A TCP proxy; of a direction that is swallowed it reads everything, and passes nothing on."""

    def __init__(self, endpoint: str) -> None:
        self._address = address_of(endpoint)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "tcp://{}:{}".format(*self._listener.getsockname())
        self.swallowed: set[str] = set()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._address)
            except OSError:  # closed, or nobody is there
                return
            self._sockets += [client, server]
            for way, source, sink in (("chunks", client, server), ("answers", server, client)):
                thread = threading.Thread(
                    target=self._pass_on, args=(way, source, sink), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if way not in self.swallowed:
                    sink.sendall(data)

    def close(self) -> None:
        for open_socket in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()
        for thread in self._threads:
            thread.join()


@pytest.mark.long
@pytest.mark.parametrize("swallowed", [{"chunks"}, {"answers"}, {"chunks", "answers"}])
def test_silence_on_a_connection_that_stands_is_noticed(
    swallowed: set[str], hasty: str, tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """No matter in which direction nothing comes through; what came is known not to be new."""
    endpoints = [free_endpoint(), free_endpoint()]
    place = InSqlite(tmp_path / "events.db")
    for endpoint in endpoints:
        pull_ack(endpoint, *place.options)
    # the first collector listens before the relay is asked to connect to it
    wait_until(lambda: is_listening(endpoints[0]), "the collector listens")
    with contextlib.closing(Relay(endpoints[0])) as relay:
        shipper = ship("--ack", "-c", relay.endpoint, "-c", endpoints[1], program=hasty)
        expected = texts(20_000)
        shipper.write(as_input(expected[:1000]))
        place.wait_for(1000)
        wait_until_asleep(shipper.pid)
        relay.swallowed = swallowed
        result = shipper.finish(as_input(expected[1000:]))
    assert place.messages() == expected
    assert (result.status, result.processed) == (0, 20_000)


# ---- peers that are something else ------------------------------------------------------------


class WebServer(TalkingServer):
    """Answers every request, and what is none, with an error."""

    def __init__(self) -> None:
        super().__init__(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    def _hear(self) -> None:
        """It hangs up at once."""


@pytest.fixture
def peers() -> Iterator[Callable[[str], zmq.Socket[bytes]]]:
    """Binds sockets of a kind, such as `PULL`."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def bind(kind: str) -> zmq.Socket[bytes]:
        peer = context.socket(getattr(zmq, kind))
        peer.bind("tcp://127.0.0.1:*")
        return peer

    yield bind
    context.destroy(linger=0)


@pytest.mark.long
def test_peers_that_are_no_collectors_get_nothing_and_the_line_goes_on(
    hasty: str,
    peers: Callable[[str], zmq.Socket[bytes]],
    tmp_path: Path,
    pull_ack: Ship,
    ship: Ship,
) -> None:
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    pull_ack(endpoint, *place.options)
    kinds = ("PULL", "PUSH", "SUB", "REP", "DEALER", "ROUTER")
    others = {kind: peers(kind) for kind in kinds}
    with contextlib.closing(WebServer()) as web:
        wrong = [other.get_string(zmq.LAST_ENDPOINT) for other in others.values()]
        options = [word for each in (*wrong, web.endpoint, endpoint) for word in ("-c", each)]
        result = ship("--ack", *options, program=hasty).finish(b"x\n")
        assert web.requests
    assert place.messages() == ["x"]
    assert (result.status, result.processed) == (0, 1)
    for kind in ("DEALER", "ROUTER"):  # which may be collectors
        *_, header = others[kind].recv_multipart(zmq.DONTWAIT)
        assert HEADER.unpack(header)[:2] == (2, QUESTION)
    for kind in ("PULL", "SUB", "REP"):
        with pytest.raises(zmq.Again):
            others[kind].recv_multipart(zmq.DONTWAIT)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["PULL", "HTTP"])
def test_what_waits_for_a_wrong_peer_goes_to_the_collector_that_takes_its_place(
    kind: str,
    peers: Callable[[str], zmq.Socket[bytes]],
    tmp_path: Path,
    pull_ack: Ship,
    ship: Ship,
) -> None:
    place = InFile(tmp_path / "events")
    if kind == "HTTP":
        web = WebServer()
        endpoint = web.endpoint
    else:
        peer = peers(kind)
        endpoint = peer.get_string(zmq.LAST_ENDPOINT)
    shipper = ship("--ack", "-c", endpoint)
    shipper.write(b"x\n")
    if kind == "HTTP":
        wait_until(lambda: web.requests, "it was asked for")
        web.close()
    else:
        peer.close(0)
        wait_until(lambda: not is_listening(endpoint), "the peer is gone")
    pull_ack(endpoint, *place.options)
    place.wait_for(1)
    result = shipper.finish()
    assert place.messages() == ["x"]
    assert (result.status, result.processed, trouble(result)) == (0, 1, "")


UNKNOWN = "tcp://" + "a." * 150 + "invalid:2120"  # no name is so long: no server has to be asked


@pytest.mark.long
def test_name_that_does_not_resolve_is_looked_up_by_one_thread_and_said_once(
    hasty: str, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", UNKNOWN, "--linger", "0", program=hasty)
    warning = shipper.read_stderr_line()
    assert warning.startswith(f"zmqpush.py: {UNKNOWN}: ")
    before = proc_status(shipper.pid, "Threads")
    shipper.write(b"x\n")
    wait_until_woken(shipper.pid, 4)  # by the line, and then by its patience
    assert proc_status(shipper.pid, "Threads") == before
    result = shipper.finish()
    assert (result.status, result.processed) == (1, 0)
    assert trouble(result) == "zmqpush.py: gave up 1 messages: no collector has acknowledged them\n"


@pytest.mark.long
def test_name_that_does_not_resolve_is_left_for_the_next(
    check_is_left: Callable[[str], None],
) -> None:
    check_is_left(UNKNOWN)

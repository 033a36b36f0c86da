"""Who does not fit is turned away and told, and has no event; what works goes on."""

from __future__ import annotations

import contextlib
import random
import re
import resource
import signal
import socket
from collections.abc import Iterator

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.endpoints import address_of
from tests.support.proc import cpu_s
from tests.support.pulling import Pull, Puller, Push, numbered, send
from tests.support.waiting import DEADLINE_S
from zmqlines.peers import Peers

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


GONE = "a peer has gone without a handshake: "


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def check_it_goes_on(puller: Puller, push: Push) -> None:
    """Nothing came before this, and a PUSH socket gets through."""
    send(push(puller.endpoint), numbered(1))
    assert puller.read(1) == numbered(1)


# ---- two ends that do not fit -----------------------------------------------------------------


def test_acknowledged_shipper_at_a_plain_collector_is_told(
    pull: Pull, push: Push, ship: Ship
) -> None:
    puller = pull()
    ship("--ack", "-c", puller.endpoint).write(b"x\n")
    assert "zmqpush.py --ack" in puller.wait_for_word(GONE)
    check_it_goes_on(puller, push)
    puller.end(signal.SIGTERM)


def test_plain_shipper_at_an_acknowledged_collector_is_told(pull: Pull, ship: Ship) -> None:
    puller = pull("--ack")
    shipper = ship("-c", puller.endpoint)
    shipper.write(b"x\n")
    assert "zmqpush.py without --ack" in puller.wait_for_word(GONE)
    assert ship("--ack", "-c", puller.endpoint).finish(b"y\n").status == 0
    assert strict_json(puller.read(1)[0])["message"] == "y"
    puller.end(signal.SIGTERM)


@pytest.mark.parametrize("ack", [[], ["--ack"]], ids=["PULL", "ROUTER"])
def test_pub_socket_is_told(
    ack: list[str], pull: Pull, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    puller = pull(*ack)
    publisher = context.socket(zmq.PUB)
    publisher.connect(puller.endpoint)
    assert "PUB socket" in puller.wait_for_word(GONE)
    puller.end(signal.SIGTERM)


def test_peer_that_wants_curve_is_told(pull: Pull, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Now and then libzmq sees one that only tried the port, and that is told instead."""
    told = ""
    for _ in range(6):
        puller = pull()
        peer = context.socket(zmq.PUSH)
        peer.curve_serverkey, _ = zmq.curve_keypair()
        peer.curve_publickey, peer.curve_secretkey = zmq.curve_keypair()
        peer.connect(puller.endpoint)
        told = puller.wait_for_word(GONE)
        peer.close(0)
        puller.end(signal.SIGTERM)
        if "it wants CURVE" in told:
            break
    assert "it wants CURVE" in told


def test_it_is_told_once(pull: Pull, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    puller = pull()
    publishers = [context.socket(zmq.PUB) for _ in range(5)]
    for publisher in publishers:
        publisher.connect(puller.endpoint)
        with socket.create_connection(address_of(puller.endpoint)) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
            hear_out(peer)
    puller.wait_for_word(GONE)
    puller.counters()
    (counters,) = [line for line in puller.said() if " in hand" in line]
    turned_away = re.search(r", (\d+) peers turned away$", counters)
    assert turned_away
    assert 1 <= int(turned_away[1]) <= 10
    said = puller.end(signal.SIGTERM)
    assert len([line for line in said if GONE in line]) == 1


def hear_out(peer: socket.socket) -> None:
    """Return when it is cut off."""
    peer.settimeout(DEADLINE_S)
    with contextlib.suppress(ConnectionError):
        while peer.recv(100):
            pass


# ---- what is not ZeroMQ -----------------------------------------------------------------------


@pytest.mark.parametrize("ack", [[], ["--ack"]], ids=["PULL", "ROUTER"])
def test_random_bytes_at_the_port_are_no_events(ack: list[str], pull: Pull, ship: Ship) -> None:
    """They may be frames of ZeroMQ 2, which had no greeting: the first one says how long it is."""
    puller, noise = pull(*ack), random.Random(2120).randbytes(1000)
    for data in (
        b"\x03\x00hi" * 50,
        b"\x01\x00" * 50,
        b"GET / HTTP/1.1\r\n\r\n",
        noise,
    ):
        with socket.create_connection(address_of(puller.endpoint)) as peer:
            with contextlib.suppress(ConnectionError):
                peer.sendall(data)
            hear_out(peer)
    puller.wait_for_word(GONE)
    assert ship(*ack, "-c", puller.endpoint).finish(b"x\n").status == 0
    assert [strict_json(line)["message"] for line in puller.read(1)] == ["x"]
    *_, summary = puller.end(signal.SIGTERM)
    assert summary == "1 events written"


def test_who_only_looks_whether_the_port_is_open_is_told_of_once_at_most(
    pull: Pull, push: Push
) -> None:
    puller = pull()
    for _ in range(20):
        socket.create_connection(address_of(puller.endpoint)).close()
    check_it_goes_on(puller, push)
    *told, summary = puller.end(signal.SIGTERM)
    assert summary == "1 events written"
    assert len(told) <= 1


# ---- descriptors ------------------------------------------------------------------------------


@pytest.mark.parametrize("ack", [[], ["--ack"]], ids=["PULL", "ROUTER"])
def test_more_peers_than_descriptors_have_to_wait_and_the_others_get_through(
    ack: list[str], pull: Pull, ship: Ship
) -> None:
    """It says so, and does not burn a core on those that it cannot accept."""
    puller = pull(*ack, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)))
    first = ship(*ack, "-c", puller.endpoint)
    first.write(b"1\n")
    assert strict_json(puller.read(1)[0])["message"] == "1"
    with contextlib.ExitStack() as crowd:
        address = address_of(puller.endpoint)
        for _ in range(300):
            with contextlib.suppress(TimeoutError, socket.timeout):  # the door is shut
                crowd.enter_context(socket.create_connection(address, timeout=1))
            if any("ulimit -n" in line for line in puller.said()):
                break
        assert "128 files" in puller.wait_for_word("ulimit -n")
        used_s = cpu_s(puller.pid)
        first.write(b"2\n")
        assert strict_json(puller.read(1)[0])["message"] == "2"
        late = ship(*ack, "-c", puller.endpoint)
        late.write(b"3\n")
        with pytest.raises(AssertionError, match="1 of 1"):
            puller.read(1, deadline_s=2)
        assert cpu_s(puller.pid) - used_s < 0.5
    assert strict_json(puller.read(1)[0])["message"] == "3"
    said = puller.end(signal.SIGTERM)
    assert len([line for line in said if "ulimit -n" in line]) == 1


# ---- the books --------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_books_tell_of_nobody_who_fits_and_in_the_end_of_all_who_do_not(
    data: st.DataObject,
) -> None:
    """Whoever comes fits, does not, or goes without a word; and they come all together."""
    peers, count = Peers(), data.draw(st.integers(0, 8))
    kinds = {fd: data.draw(st.sampled_from(["fits", "misfit", "looks"])) for fd in range(count)}
    steps = {
        fd: ["came", *(["greeted"] if kind == "fits" else []), "went"] for fd, kind in kinds.items()
    }
    misfits_gone = 0
    while steps:
        fd = data.draw(st.sampled_from(sorted(steps)))
        step = steps[fd].pop(0)
        if step == "came":
            peers.came(fd)
        elif step == "greeted":
            peers.greeted()
        else:
            if kinds[fd] == "looks":
                peers.failed()
            peers.went(fd)
            misfits_gone += kinds[fd] == "misfit"
            del steps[fd]
        assert peers.turned_away <= misfits_gone
    assert peers.turned_away == misfits_gone
    assert not peers.standing

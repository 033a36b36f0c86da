"""Garbage, floods and crowds do no harm to either end."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import resource
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.ack.helpers import NO_OFFERS, Feeder, as_input, check_all_safe, texts
from tests.ack.talking_server import TalkingServer
from tests.support.ack import ANSWER, ONE, SAFE, OurCollector, answer, header
from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.ending import end
from tests.support.endpoints import address_of, is_listening
from tests.support.net import free_endpoint
from tests.support.places import InFile, Place
from tests.support.proc import memory, wait_until_asleep
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


ACK_OR_PLAIN = pytest.mark.parametrize("ack", [["--ack"], []], ids=["ROUTER", "PULL"])


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def any_frames(rng: random.Random) -> list[bytes]:
    """One to four frames; some have the size of a header."""
    sizes = [rng.choice((0, 1, 26, 34, 34, 100)) for _ in range(rng.randrange(1, 5))]
    return [rng.randbytes(size) for size in sizes]


def greeting(kind: bytes) -> bytes:
    """How a peer with a socket of this kind begins (RFC 23)."""
    ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    mechanism = b"NULL".ljust(20, b"\0")
    begin = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + mechanism + bytes(32)
    return begin + bytes([4, len(ready)]) + ready


IMPOSSIBLE_SIZES = (2**31, 2**40, 2**63 - 1, 2**64 - 1)


def frame_of(size: int) -> bytes:
    """The beginning of a frame that says it has this size."""
    return b"\x02" + struct.pack(">Q", size) + b"x" * 1000


# ---- to a collector ---------------------------------------------------------------------------


@pytest.mark.long
@ACK_OR_PLAIN
def test_garbage_does_no_harm_to_a_collector(
    ack: list[str],
    context: zmq.Context[zmq.Socket[bytes]],
    tmp_path: Path,
    ship: Ship,
) -> None:
    """A good shipper gets through meanwhile."""
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    collector = ship(*ack, "--bind", endpoint, *place.options, program="zmqpull.py")
    wait_until(lambda: is_listening(endpoint), "the collector listens")
    rng = random.Random(2120)
    expected = texts(50_000)
    noisy = context.socket(zmq.DEALER if ack else zmq.PUSH)
    noisy.connect(endpoint)
    noisy.send_multipart([b""] * 10_000)
    noisy.send(bytes(5_000_000))
    for kind in (zmq.PUSH, zmq.SUB, zmq.REQ, zmq.PAIR):
        context.socket(kind).connect(endpoint)
    with contextlib.ExitStack() as stack:
        for data in (
            b"GET / HTTP/1.1\r\n\r\n" + rng.randbytes(1000),
            *(greeting(b"DEALER" if ack else b"PUSH") + frame_of(n) for n in IMPOSSIBLE_SIZES),
            greeting(b"x" * 200),
        ):
            peer = stack.enter_context(socket.create_connection(address_of(endpoint)))
            peer.sendall(data)
        shipper = ship(*ack, "-c", endpoint)
        Feeder(shipper, as_input(expected))
        place.wait_for(1 if ack else 10_002)  # what is large has come
        before = memory(collector.pid)
        for frames in [*NO_OFFERS.values(), *(any_frames(rng) for _ in range(20_000))]:
            noisy.send_multipart(frames or [b""])
        result = shipper.finish()
        shipped = {f'{{"message":"{text}",'.encode() for text in expected}
        wait_until(lambda: arrived(place) >= shipped, "all that was shipped")
        assert memory(collector.pid) - before < 20_000_000
    assert (result.status, result.processed) == (0, 50_000)
    if ack:
        assert place.messages() == expected
        *troubles, summary = end(collector).splitlines()
        for told in ("not speak the protocol", "without a handshake: ", "speaks version 3"):
            assert len([line for line in troubles if told in line]) == 1
        assert len(troubles) == 3
        assert summary == "zmqpull.py: 50000 events written"
    else:  # there, whatever comes is an event
        counts = collections.Counter(strict_json(event).get("message") for event in place.events())
        assert all(counts[text] == 1 for text in expected)


def arrived(place: Place) -> set[bytes]:
    """The beginnings of the events that have come."""
    return {event[: event.find(b",") + 1] for event in place.events()}


def test_endless_nonsense_does_not_keep_a_collector_from_ending(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, pull_ack: Ship
) -> None:
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *InFile(tmp_path / "events").options)
    noisy = context.socket(zmq.DEALER)
    noisy.setsockopt(zmq.LINGER, 0)
    noisy.connect(endpoint)
    ended = threading.Event()

    def make_noise() -> None:
        while not ended.is_set():
            with contextlib.suppress(zmq.Again):
                noisy.send(b"x", zmq.DONTWAIT)

    noise = threading.Thread(target=make_noise)
    noise.start()
    try:
        assert "does not speak the protocol" in collector.read_stderr_line()
        assert end(collector) == "zmqpull.py: 0 events written\n"
    finally:
        ended.set()
        noise.join()


@pytest.mark.long
@pytest.mark.parametrize(
    "place",
    ["file", *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("redis", "sqlite"))],
    indirect=True,
)
@pytest.mark.timeout(300)
def test_a_hundred_thousand_shippers_do_no_harm_to_a_collector(
    place: Place,
    context: zmq.Context[zmq.Socket[bytes]],
    pull_ack: Ship,
    ship: Ship,
) -> None:
    """It remembers them on disk, if at all. A good one gets through meanwhile."""
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *place.options)
    crowd = context.socket(zmq.DEALER)
    crowd.connect(endpoint)
    shipper = ship("--ack", "-c", endpoint)
    expected = texts(50_000)
    sizes = []
    for serial in range(100_000):
        who = serial.to_bytes(16, "big")
        crowd.send_multipart([header(ONE, who, 1, 1), b'{"message":"crowd"}'])
        if serial % 500 == 499:  # its queue is not endless, and neither is ours
            while True:
                assert crowd.poll(int(DEADLINE_S * 1000))
                if ANSWER.unpack(crowd.recv())[4:6] == (who, 1):
                    break
        if serial % 2500 == 2499:
            shipper.write(as_input(expected[serial // 2 - 1249 : serial // 2 + 1]))
            sizes.append(memory(collector.pid))
    result = shipper.finish()
    assert (result.status, result.processed) == (0, 50_000)
    messages = place.messages()
    assert messages.count("crowd") == 100_000
    assert [message for message in messages if message != "crowd"] == expected
    assert sizes[-1] - sizes[7] < 5_000_000, sizes  # when a file has as many records as it may have
    assert end(collector) == "zmqpull.py: 150000 events written\n"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Lets this process have them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 4000:
        pytest.skip("so many descriptors are not allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.long
@pytest.mark.usefixtures("many_descriptors")
@ACK_OR_PLAIN
def test_a_thousand_idle_connections_do_no_harm_to_a_collector(
    ack: list[str], tmp_path: Path, ship: Ship
) -> None:
    """Though a process may have only 256 descriptors unless it asks for more."""
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    collector = ship(
        *(*ack, "--bind", endpoint, *place.options),
        program="zmqpull.py",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4000)),
    )
    wait_until(lambda: is_listening(endpoint), "the collector listens")
    before = memory(collector.pid)
    with contextlib.ExitStack() as stack:
        for serial in range(1000):
            peer = socket.create_connection(address_of(endpoint), timeout=DEADLINE_S)
            stack.enter_context(peer)
            if serial % 2:  # half of them have greeted
                peer.sendall(greeting(b"DEALER" if ack else b"PUSH"))
        descriptors = f"/proc/{collector.pid}/fd"
        wait_until(lambda: len(os.listdir(descriptors)) > 1000, "all are connected")
        assert ship(*ack, "-c", endpoint).finish(b"x\n").status == 0
        place.wait_for(1)
        assert memory(collector.pid) - before < 50_000_000
    assert place.messages() == ["x"]
    assert "1 events written" in end(collector)


# ---- to a shipper -----------------------------------------------------------------------------


@pytest.mark.long
def test_flood_of_garbage_does_no_harm_to_a_shipper(ship: Ship) -> None:
    rng = random.Random(2120)
    with contextlib.closing(OurCollector(SNDHWM=0)) as collector:
        shipper = ship("--ack", "-c", collector.endpoint)
        shipper.write(b"1\n")
        chunk = collector.receive_chunk()
        collector.answer(chunk, 1)
        wait_until_asleep(shipper.pid)
        before = memory(shipper.pid)
        for _ in range(50_000):
            collector.send(chunk, *any_frames(rng))
            collector.send(chunk, answer(SAFE, rng.randbytes(16), 2**64 - 1))
        shipper.write(b"2\n")
        said = [shipper.read_stderr_line()]
        while " 2 handed over" not in said[-1]:  # then it has read all of that
            while collector.socket.poll(10):
                collector.answer(collector.receive(), 2)
            shipper.signal(signal.SIGUSR1)
            said.append(shipper.read_stderr_line())
        assert memory(shipper.pid) - before < 20_000_000
        check_all_safe(shipper, 2)
    assert "does not speak the protocol of --ack" in said[0]
    assert all(" handed over" in line for line in said[1:])


@pytest.mark.long
@pytest.mark.parametrize("size", IMPOSSIBLE_SIZES)
def test_frame_of_an_impossible_size_does_no_harm_to_a_shipper(
    size: int, hasty: str, tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    pull_ack(endpoint, *place.options)
    with contextlib.closing(TalkingServer(greeting(b"ROUTER") + frame_of(size))) as bad:
        shipper = ship("--ack", "-c", bad.endpoint, "-c", endpoint, program=hasty)
        result = shipper.finish(b"x\n")
        assert bad.requests
    assert place.messages() == ["x"]
    assert (result.status, result.processed) == (0, 1)

"""Who is let in, as libzmq asks for it; and that nobody is where nobody answers."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from tests.support.keyring import Keyring
from zmqlines import keys
from zmqlines.curve import Curve, open_curve
from zmqlines.zap import answer

KNOWN, UNKNOWN = b"k" * 32, b"u" * 32
ABOUT = [b"1.0", b"7", b"domain", b"127.0.0.1", b"identity"]


def status(*question: bytes) -> bytes:
    reply = answer(list(question), lambda key: key == KNOWN)
    assert len(reply) == 6
    assert (reply[0], reply[1]) == (b"1.0", b"7")
    return reply[2]


def test_who_is_known_is_let_in() -> None:
    assert status(*ABOUT, b"CURVE", KNOWN) == b"200"


@pytest.mark.parametrize(
    "rest",
    [
        [b"CURVE", UNKNOWN],
        [b"CURVE", b""],
        [b"CURVE"],
        [b"CURVE", KNOWN, KNOWN],
        [b"NULL"],
        [b"PLAIN", b"user", b"password"],
        [b"PLAIN", KNOWN],
        [b"curve", KNOWN],
    ],
)
def test_nobody_else_is(rest: list[bytes]) -> None:
    assert status(*ABOUT, *rest) == b"400"


@pytest.mark.parametrize(
    "question",
    [
        [b"1.0", b"7"],
        [b"1.0", b"7", b"domain", b"address", b"identity"],
        [b"2.0", b"7", b"domain", b"address", b"identity", b"CURVE", KNOWN],
    ],
)
def test_what_is_not_understood_lets_nobody_in(question: list[bytes]) -> None:
    assert status(*question) == b"500"


@given(st.lists(st.binary()))
def test_whatever_is_asked_gets_an_answer_that_is_no_welcome(question: list[bytes]) -> None:
    reply = answer(question, lambda key: False)
    assert len(reply) == 6
    assert reply[2] in (b"400", b"500")


# ---- over real sockets ------------------------------------------------------------------------


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def binds(keyring: Keyring) -> Curve:
    """The keys of a collector that lets the shipper in."""
    folder = str(keyring.clients)
    secret = str(keyring.secret("collector"))
    options = argparse.Namespace(
        curve_key=secret, curve_server_key=[], curve_clients=folder, connect=[]
    )
    curve = open_curve(options)
    assert curve
    return curve


def pair_of(keyring: Keyring, name: str) -> keys.Pair:
    return keys.read_own(str(keyring.secret(name)))


async def arrives(
    keyring: Keyring,
    who: str,
    context: zmq.Context[zmq.Socket[bytes]],
    gate_is_there: bool,
) -> bool:
    """Whether an event of `who` gets to a socket that only the shipper may speak to."""
    curve, pair = binds(keyring), pair_of(keyring, who)
    pull: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
    push = context.socket(zmq.PUSH)
    try:
        curve.serve(pull)
        pull.setsockopt(zmq.HANDSHAKE_IVL, 1000)  # ms, if the handler is asked while it goes
        if not gate_is_there:
            curve.close()
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        push.curve_publickey, push.curve_secretkey = pair.public, pair.secret
        push.curve_serverkey = pair_of(keyring, "collector").public
        news = push.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
        )
        push.connect(f"tcp://127.0.0.1:{port}")
        push.send(b"event")
        while not news.poll(0):  # its handshake has succeeded, or failed
            await asyncio.sleep(0.01)
        for _ in range(50):
            if pull.poll(0):
                return True
            await asyncio.sleep(0.01)
        return False
    finally:
        curve.close()
        pull.close(0)
        push.disable_monitor()
        push.close(0)


@pytest.mark.parametrize(
    ("who", "gate_is_there", "gets_in"),
    [
        ("shipper", True, True),
        ("stranger", True, False),
        ("shipper", False, False),
        ("stranger", False, False),
    ],
)
def test_without_the_handler_nobody_gets_in(
    who: str,
    gate_is_there: bool,
    gets_in: bool,
    keyring: Keyring,
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    """libzmq alone would let everybody in."""
    arrival = arrives(keyring, who, context, gate_is_there)
    assert asyncio.run(asyncio.wait_for(arrival, 30)) == gets_in

"""With others that speak CURVE: rsyslog's own ZeroMQ modules (czmq), and pyzmq."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.keyring import Keyring
from tests.support.net import free_endpoint
from tests.support.pulling import Pull
from tests.support.rsyslog import Receiver, Rsyslogd
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version

TEXTS = [f"line {number}" for number in range(100)]


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def test_omczmq_sends_to_a_collector(pull: Pull, keyring: Keyring, tmp_path: Path) -> None:
    puller = pull(*keyring.to_bind(), "-n", "100")
    rsyslogd = Rsyslogd(
        tmp_path / "rsyslogd",
        f"""\
module(load="omczmq" authtype="CURVECLIENT" servercertpath="{keyring.public("collector")}"
       clientcertpath="{keyring.public("shipper")}")
template(name="text" type="string" string="%msg%")
action(type="omczmq" endpoints=">{puller.endpoint}" sockType="PUSH" template="text")
""",
    )
    try:
        rsyslogd.start()
        rsyslogd.log(*(f"<13>unit: {text}".encode() for text in TEXTS))
        lines = puller.read(100)
    finally:
        rsyslogd.close()
    assert [strict_json(line)["message"].strip() for line in lines] == TEXTS


class SecretReceiver(Receiver):
    """One that is a server of CURVE, and knows its clients."""

    def __init__(self, folder: Path, keyring: Keyring) -> None:
        self.MODULE = (
            f'module(load="imczmq" authtype="CURVESERVER" authenticator="on" '
            f'servercertpath="{keyring.public("collector")}" clientcertpath="{keyring.clients}")'
        )
        super().__init__(folder)


@pytest.mark.parametrize("spool", [False, True], ids=["", "spool"])
def test_a_shipper_sends_to_imczmq(
    spool: bool, ship: Ship, keyring: Keyring, tmp_path: Path
) -> None:
    receiver = SecretReceiver(tmp_path / "receiver", keyring)
    try:
        receiver.start()
        spooled = ["--spool", str(tmp_path / "spool")] * spool
        shipper = ship("--format", "raw", *spooled, *keyring.to_connect(), "-c", receiver.endpoint)
        assert shipper.finish("".join(f"{text}\n" for text in TEXTS).encode()).status == 0
        assert [line.decode() for line in receiver.wait_for(100)] == TEXTS
    finally:
        receiver.close()


def test_a_shipper_that_binds_sends_to_pyzmq(
    ship: Ship, keyring: Keyring, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    endpoint = free_endpoint()
    shipper = ship("--format", "raw", *keyring.to_bind("collector"), "-b", endpoint)
    pull = context.socket(zmq.PULL)
    pull.curve_publickey, secret = zmq.auth.load_certificate(keyring.secret("shipper"))
    assert secret
    pull.curve_secretkey = secret
    pull.curve_serverkey = zmq.auth.load_certificate(keyring.public("collector"))[0]
    pull.rcvtimeo = int(DEADLINE_S * 1000)
    pull.connect(endpoint)
    shipper.write(b"a\nb\n")
    assert [pull.recv(), pull.recv()] == [b"a", b"b"]
    assert shipper.finish().status == 0


def test_a_shipper_sends_to_pyzmq_with_its_own_authenticator(
    ship: Ship, keyring: Keyring, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    try:
        authenticator.configure_curve(domain="*", location=str(keyring.clients))
        pull = context.socket(zmq.PULL)
        pull.curve_publickey, secret = zmq.auth.load_certificate(keyring.secret("collector"))
        assert secret
        pull.curve_secretkey, pull.curve_server = secret, True
        pull.rcvtimeo = int(DEADLINE_S * 1000)
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        shipper = ship("--format", "raw", *keyring.to_connect(), "-c", f"tcp://127.0.0.1:{port}")
        assert shipper.finish(b"a\nb\n").status == 0
        assert [pull.recv(), pull.recv()] == [b"a", b"b"]
    finally:
        authenticator.stop()


def test_pyzmq_sends_to_a_collector(
    pull: Pull, keyring: Keyring, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    puller = pull(*keyring.to_bind())
    push = context.socket(zmq.PUSH)
    push.curve_publickey, secret = zmq.auth.load_certificate(keyring.secret("shipper"))
    assert secret
    push.curve_secretkey = secret
    push.curve_serverkey = zmq.auth.load_certificate(keyring.public("collector"))[0]
    push.connect(puller.endpoint)
    push.send(b'{"message":"a"}')
    assert puller.read(1) == [b'{"message":"a"}']
    with socket.create_connection(("127.0.0.1", int(puller.endpoint.rpartition(":")[2]))) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
    push.send(b'{"message":"b"}')
    assert puller.read(1) == [b'{"message":"b"}']

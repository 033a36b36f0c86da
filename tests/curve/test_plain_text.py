"""Nothing of an event can be read on the way."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import pytest

from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.keyring import Keyring
from tests.support.pulling import Pull

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

ETH_P_ALL = 3  # linux/if_ether.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h: beyond the limit for others than root


def captured(wire: socket.socket) -> bytes:
    """All that went over the loopback interface since it is listened to (packet(7))."""
    packets = []
    try:
        while True:
            packets.append(wire.recv(70_000, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return b"".join(packets)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may capture")
@pytest.mark.parametrize("kind", [[], ["--ack"], ["--batch", "10"]], ids=["one", "ack", "batch"])
@pytest.mark.parametrize("curve", [False, True], ids=["plain", "curve"])
def test_a_capture_of_loopback_shows_no_plain_text(
    curve: bool, kind: list[str], pull: Pull, ship: Ship, keyring: Keyring, tmp_path: Path
) -> None:
    secret = str(uuid.uuid4())  # others may run this test at the same time
    ends = (keyring.to_bind(), keyring.to_connect()) if curve else ([], [])
    puller = pull(*ends[0], *["--ack"] * ("--ack" in kind))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 * 1024 * 1024)
        wire.bind(("lo", 0))
        shipper = ship(*kind, *ends[1], "-c", puller.endpoint)
        assert shipper.finish(f"{secret}\n".encode() * 100).status == 0
        lines = puller.read(100)
        traffic = captured(wire)
    assert {strict_json(line)["message"] for line in lines} == {secret}
    port = int(puller.endpoint.rpartition(":")[2])
    assert port.to_bytes(2, "big") in traffic
    assert (secret.encode() in traffic) == (not curve)
    secrets = [
        keyring.secret(name).read_bytes().split(b'"')[3] for name in ("shipper", "collector")
    ]
    assert not any(secret in traffic for secret in secrets)

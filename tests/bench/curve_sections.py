"""What the bench measures of CURVE: encrypted beside plain."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable

import zmq

from tests.bench.peers import BATCH, ZMQPUSH, StdinPeer
from tests.bench.report import Section
from tests.bench.sections import Bench, compare

ONE_A_LINE = 0.6
IN_ARRAYS = 0.45


def with_keys(peer: StdinPeer, folder: Path) -> StdinPeer:
    """The same, encrypted, to a sink that has a key."""
    public, secret = zmq.curve_keypair()
    own_public, own_secret = zmq.curve_keypair()
    name = "arrays" if peer.arrays else "single"
    key, server = folder / f"{name}.key_secret", folder / f"{name}-server.key"
    key.touch(0o600)
    key.write_bytes(
        b'curve\n    public-key = "%b"\n    secret-key = "%b"\n' % (own_public, own_secret)
    )
    server.write_bytes(b'curve\n    public-key = "%b"\n' % public)
    options = ("--curve-key", str(key), "--curve-server-key", str(server))
    before = (sys.executable, str(ZMQPUSH))
    assert peer.command[:2] == before
    return replace(
        peer,
        name=f"{peer.name}, CURVE",
        command=(*before, *options, *peer.command[2:]),
        sink=("--curve", secret.decode()),
    )


def throughput(bench: Bench) -> Section:
    """The plain input, encrypted and not, to a sink that takes all it can get."""
    source = bench.inputs[0]
    comparisons = [
        (what, with_keys(peer, bench.tools.folder), peer, times)
        for what, peer, times in (
            ("one message a line", bench.peers.zmqpush, ONE_A_LINE),
            (f"--batch {BATCH}", bench.peers.zmqpush_batch, IN_ARRAYS),
        )
    ]
    return Section("CURVE", *compare(bench, "CURVE", source, comparisons))


SECTIONS: dict[str, Callable[[Bench], Section]] = {"curve": throughput}

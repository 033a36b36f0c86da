"""Whether a peer does the job at all: the same lines out, as valid JSON, in order.

A program that dropped or mangled events would be fast for the wrong reason. So everybody
ships the start of each input to a socket of ours first, and what arrives is held against
the lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import zmq

from tests.bench.inputs import Input
from tests.bench.measure import BenchError
from tests.bench.peers import BATCH, Peer, Tools

PATIENCE_MS = 30_000
#: How long a surplus event may be on its way to us when its sender has ended.
NOTHING_MORE_MS = 100
FIRST_MEMBERS = ["message", "type", "@pid"]


def check(peer: Peer, tools: Tools, source: Input) -> None:
    """Ship a whole input and compare.

    Raises:
        BenchError: an event is missing, not valid JSON, or not the event of its line.
    """
    expected = source.path.read_text(encoding="utf-8").split("\n")[:-1]
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        with peer.ship(tools, f"tcp://127.0.0.1:{port}", source.path):
            events = received(pull, peer)
            for number, line in enumerate(expected, 1):
                try:
                    compare(next(events), line)
                except ValueError as error:
                    raise BenchError(f"{source.name}, line {number}: {error}") from error
        if pull.poll(NOTHING_MORE_MS):
            raise BenchError(f"{source.name}: {peer.name} sent more events than there are lines")


def received(pull: zmq.Socket[bytes], peer: Peer) -> Iterator[object]:
    """The events of the messages that come.

    Raises:
        ValueError: a message is not one valid JSON object, or array of up to BATCH; or none
            came for a while.
    """
    while True:
        if not pull.poll(PATIENCE_MS):
            raise ValueError(f"no event within {PATIENCE_MS} ms")
        document = json.loads(pull.recv().decode("utf-8"))
        if isinstance(document, list) != peer.arrays:
            raise ValueError(f"{'no' if peer.arrays else 'an'} array: {document!r}")
        events = document if peer.arrays else [document]
        if not 1 <= len(events) <= BATCH:
            raise ValueError(f"an array of {len(events)}")
        yield from events


def compare(event: object, line: str) -> None:
    """Raise ValueError unless the event is what a line becomes."""
    if not isinstance(event, dict) or list(event) != FIRST_MEMBERS:
        raise ValueError(f"not an event: {event!r}")
    if event["message"] != line or event["type"] != "syslog" or type(event["@pid"]) is not int:
        raise ValueError(f"{event!r} for {line!r}")

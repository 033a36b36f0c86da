"""Acknowledged delivery as it is written down: the frames, and peers that are not ours.

Nothing of the programs' own is used for the frames. `Books` are what a sink has to keep.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable

import zmq

from tests.support.waiting import DEADLINE_S
from zmqlines.ack import Offer, sort_out

HEADER = struct.Struct(">BB16sQQ")  # version, kind, shipper, number, first
ANSWER = struct.Struct(">BB16sQ")  # version, kind, shipper, number
LINES, ONE, QUESTION, SAFE = 1, 2, 3, 4
ALICE, BOB = b"alice".ljust(16, b"."), b"bob".ljust(16, b".")


@dataclasses.dataclass
class Message:
    """What a shipper sent."""

    peer: bytes
    kind: int
    shipper: bytes
    number: int
    first: int
    texts: list[bytes]


class OurCollector:
    """A ROUTER socket that knows the layout of the frames, and does as it is told."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:*", **sockopts: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        for name, value in sockopts.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.bind(endpoint)
        self.endpoint = self.socket.get_string(zmq.LAST_ENDPOINT)

    def receive(self, deadline_s: float = DEADLINE_S) -> Message:
        assert self.socket.poll(int(deadline_s * 1000)), "nothing came"
        peer, header, *texts = self.socket.recv_multipart()
        version, kind, shipper, number, first = HEADER.unpack(header)
        assert version == 1
        return Message(peer, kind, shipper, number, first, texts)

    def receive_chunk(self) -> Message:
        """The next chunk; to questions before it the answer is that nothing is safe."""
        while (message := self.receive()).kind == QUESTION:
            self.answer(message, 0)
        assert message.kind in (LINES, ONE)
        return message

    def receive_question(self) -> Message:
        message = self.receive()
        assert (message.kind, message.number, message.first) == (QUESTION, 0, 0)
        assert message.texts == []
        return message

    def answer(self, message: Message, number: int) -> None:
        """Tell the sender of `message` that all up to `number` is safe."""
        self.send(message, ANSWER.pack(1, SAFE, message.shipper, number))

    def send(self, message: Message, *frames: bytes) -> None:
        self.socket.send_multipart([message.peer, *frames])

    def is_silent(self, for_s: float) -> bool:
        return self.socket.poll(int(for_s * 1000)) == 0

    def close(self) -> None:
        """End it; what it has answered goes out."""
        self._context.destroy(linger=1000)


class OurShipper:
    """A DEALER socket that knows the layout of the frames, and offers what it is told."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.connect(endpoint)

    def offer(self, shipper: bytes, number: int, first: int, text: bytes) -> None:
        self.socket.send_multipart([HEADER.pack(1, ONE, shipper, number, first), text])

    def ask(self, shipper: bytes) -> None:
        self.socket.send(HEADER.pack(1, QUESTION, shipper, 0, 0))

    def answer(self) -> tuple[bytes, int]:
        """The next answer: whose chunks are safe, and up to which."""
        assert self.socket.poll(int(DEADLINE_S * 1000)), "no answer came"
        (frame,) = self.socket.recv_multipart()
        version, kind, shipper, number = ANSWER.unpack(frame)
        assert (version, kind) == (1, SAFE)
        return shipper, number

    def answers(self, *asked: tuple[bytes, int]) -> None:
        """Take answers until the last ones are `asked`. None says more."""
        last = dict.fromkeys((shipper for shipper, _ in asked), -1)
        while last != dict(asked):
            shipper, number = self.answer()
            last[shipper] = number

    def close(self) -> None:
        self._context.destroy(linger=0)


OurShippers = Callable[[str], OurShipper]  # the fixture `our_shipper`


class Books:
    """Events and records, as a sink keeps them: in one transaction."""

    def __init__(self, outlives_collector: bool = True) -> None:
        self.outlives_collector = outlives_collector
        self.events: list[bytes] = []
        self.was_wiped = False
        self._records: dict[bytes, int] = {}

    def keep(self, offers: list[Offer]) -> dict[bytes, int]:
        taken, records = sort_out(offers, self._records.get)
        self.events += [event for offer in taken for event in offer.events]
        self._records.update(records)
        return records

    def wipe(self) -> None:
        self._records.clear()
        self.was_wiped = True

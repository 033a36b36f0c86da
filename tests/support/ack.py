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

VERSION = 2
HEADER = struct.Struct(">BBBB16sQQQ")  # version, kind, coding, 0, shipper, number, first, size
ANSWER = struct.Struct(">BBBB16sQQ")  # version, kind, codings, 0, shipper, number, credit
REFUSAL, LINES, ONE, QUESTION, SAFE, GOODBYE, FAREWELL = range(7)
NO_LIMIT = 2**64 - 1  # of a credit
ALICE, BOB = b"alice".ljust(16, b"."), b"bob".ljust(16, b".")


def header(
    kind: int, shipper: bytes, number: int, first: int, version: int = VERSION, coding: int = 0
) -> bytes:
    """The first frame of a shipper's message."""
    return HEADER.pack(version, kind, coding, 0, shipper, number, first, 0)


def answer(
    kind: int, shipper: bytes, number: int, version: int = VERSION, credit: int = NO_LIMIT
) -> bytes:
    """The frame of a collector's message."""
    return ANSWER.pack(version, kind, 0, 0, shipper, number, credit)


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
        version, kind, coding, zero, shipper, number, first, size = HEADER.unpack(header)
        assert (version, coding, zero, size) == (VERSION, 0, 0, 0)
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

    def answer(self, message: Message, number: int, credit: int = NO_LIMIT) -> None:
        """Tell the sender of `message` that all up to `number` is safe."""
        self.send(message, answer(SAFE, message.shipper, number, credit=credit))

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
        self.socket.send_multipart([header(ONE, shipper, number, first), text])

    def ask(self, shipper: bytes) -> None:
        self.socket.send(header(QUESTION, shipper, 0, 0))

    def say_goodbye(self, shipper: bytes, last: int) -> int:
        """The record that is left."""
        self.socket.send(header(GOODBYE, shipper, last, 0))
        return self.answer(FAREWELL)[1]

    def answer(self, expected: int = SAFE) -> tuple[bytes, int]:
        """The next answer: whose chunks are safe, and up to which."""
        assert self.socket.poll(int(DEADLINE_S * 1000)), "no answer came"
        (frame,) = self.socket.recv_multipart()
        version, kind, codings, zero, shipper, number, _ = ANSWER.unpack(frame)
        assert (version, kind, codings, zero) == (VERSION, expected, 0, 0)
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

    def forget(self, shippers: list[bytes]) -> None:
        for shipper in shippers:
            self._records.pop(shipper, None)

    def wipe(self) -> None:
        self._records.clear()
        self.was_wiped = True

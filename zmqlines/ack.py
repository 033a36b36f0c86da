"""The protocol of acknowledged delivery, what both ends must agree on (docs/protocol.md). Pure.

The shipper's end is in dealer.py, the collector's in router.py.
"""

from __future__ import annotations

import collections
import dataclasses
import struct
from collections.abc import Callable, Mapping

from zmqlines.events import as_message, events_in_lines, events_of
from zmqpush import SHIPPER_SIZE, Sendable

WINDOW_SIZE = 4 * 1024 * 1024  # bytes that may be on their way without an acknowledgement
WINDOW_CHUNKS = 1000  # and chunks, each of which may keep a file of the spool open
MOST_MESSAGES = 1_000_000  # in a chunk; zmqpush.py has a third of that, Redis 6 takes no more
RECORD_LASTS_S = 30 * 86400  # a shipper that was not here for so long is forgotten
LONGEST_STEP_S = 86400  # that a store's clock can go on at a time: a jump is not a month
HIGHEST_NUMBER = 2**53 - 1  # of a chunk; from there on Redis' Lua cannot count

ACK_VERSION = 1
ACK_LINES, ACK_ONE, ACK_QUERY, ACK_SAFE = range(1, 5)  # kinds of messages
# Version, kind, shipper, number; of a chunk also the first number that the shipper still has.
ACK_HEADER = struct.Struct(f">BB{SHIPPER_SIZE}sQQ")
ACK_ANSWER = struct.Struct(f">BB{SHIPPER_SIZE}sQ")


# ---- the shipper's end ------------------------------------------------------------------------


class Window:
    """The chunks that are not known to be safe, in order, and what a connection has had. Pure."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self._count = 0  # chunks
        self._chunks: dict[bytes, collections.deque[Sendable]] = {}  # by shipper
        self._unsent: collections.deque[tuple[bytes, Sendable]] = collections.deque()

    def add(self, shipper: bytes, chunk: Sendable) -> None:
        """`chunk` is the next one of `shipper`."""
        self._chunks.setdefault(shipper, collections.deque()).append(chunk)
        self._unsent.append((shipper, chunk))
        self.size += chunk.size
        self._count += 1

    def is_full(self) -> bool:
        """Whether no more should be added before something is safe."""
        return self.size >= WINDOW_SIZE or self._count >= WINDOW_CHUNKS

    def safe(self, shipper: bytes, number: int) -> list[Sendable]:
        """All of `shipper` up to `number` is safe: forget it; returns what was forgotten."""
        held = self._chunks.get(shipper, collections.deque())
        chunks = []
        while held and held[0].number <= number:
            chunks.append(held.popleft())
        if not held:
            self._chunks.pop(shipper, None)
        self.size -= sum(chunk.size for chunk in chunks)
        self._count -= len(chunks)
        return chunks

    def again(self) -> None:
        """The connection is new: it has had nothing."""
        self._unsent.clear()
        for shipper, held in self._chunks.items():
            self._unsent.extend((shipper, chunk) for chunk in held)

    def message(self) -> list[bytes] | None:
        """The frames of the next chunk that the connection has not had; None if it had all."""
        while self._unsent:
            shipper, chunk = self._unsent.popleft()
            held = self._chunks.get(shipper)
            if held and held[0].number <= chunk.number:  # it has not become safe meanwhile
                kind = ACK_LINES if chunk.count() > chunk.batch else ACK_ONE
                place = chunk.number, held[0].number
                return [ACK_HEADER.pack(ACK_VERSION, kind, shipper, *place), chunk.text()]
        return None

    def questions(self) -> list[bytes]:
        """For each shipper, the frame that asks what is safe."""
        return [ACK_HEADER.pack(ACK_VERSION, ACK_QUERY, shipper, 0, 0) for shipper in self._chunks]


def read_answer(frames: list[bytes]) -> tuple[bytes, int]:
    """Whose chunks are safe, and up to which number. Raises ValueError where that is not said."""
    try:
        (answer,) = frames
        version, kind, shipper, number = ACK_ANSWER.unpack(answer)
    except (ValueError, struct.error) as error:
        raise ValueError(str(error)) from None
    if (version, kind) != (ACK_VERSION, ACK_SAFE):
        raise ValueError(f"version {version}, kind {kind}")
    return shipper, number


# ---- the collector's end ----------------------------------------------------------------------


@dataclasses.dataclass
class Offer:
    """A chunk that a shipper offers (docs/protocol.md)."""

    peer: bytes  # whom to answer: an identity of the ROUTER socket
    shipper: bytes
    number: int  # 0: no chunk, but a question
    first: int  # the first number that the shipper still has
    events: list[bytes]
    is_new: bool = False  # a sink has taken it

    @classmethod
    def read(cls, frames: list[bytes]) -> Offer:
        """The one in a message of the ROUTER socket. Raises ValueError where that is none."""
        try:
            peer, header, *texts = frames
            version, kind, shipper, number, first = ACK_HEADER.unpack(header)
        except (ValueError, struct.error) as error:
            raise ValueError(str(error)) from None
        if version != ACK_VERSION:
            raise ValueError(f"version {version}")
        if (kind, texts) == (ACK_QUERY, []):
            return cls(peer, shipper, 0, 0, [])
        if kind not in (ACK_LINES, ACK_ONE) or len(texts) != 1:
            raise ValueError(f"kind {kind} with {len(texts)} frames")
        if not 0 < first <= number <= HIGHEST_NUMBER:
            raise ValueError(f"number {number}, first {first}")
        (text,) = texts
        as_lines = kind == ACK_LINES
        if as_lines and len(text) >= MOST_MESSAGES <= text.count(b"\n"):
            raise ValueError(f"more than {MOST_MESSAGES} messages in a chunk")
        events = events_in_lines(text) if as_lines else events_of([text])
        if len(events) > MOST_MESSAGES:  # an array of so many in one message
            events = [as_message(line) for line in (text.split(b"\n") if as_lines else [text])]
        return cls(peer, shipper, number, first, events)


def next_record(record: int | None, offer: Offer) -> int | None:
    """What a shipper's record is after `offer`; the offer is taken if that is its number.

    The record is the number of the last chunk that was taken, None where there is none. It goes
    up by one, or to where the shipper begins: what is before, somebody else has taken.
    """
    if not offer.number:
        return record
    if record is None or record < offer.first - 1:
        record = offer.first - 1
    return offer.number if offer.number == record + 1 else record


def sort_out(
    offers: list[Offer], record_of: Callable[[bytes], int | None]
) -> tuple[list[Offer], dict[bytes, int]]:
    """Those of `offers` that are to be taken, and what the shippers' records are then."""
    records: dict[bytes, int | None] = {}
    taken = []
    for offer in offers:
        if offer.shipper not in records:
            records[offer.shipper] = record_of(offer.shipper)
        before = records[offer.shipper]
        after = records[offer.shipper] = next_record(before, offer)
        if offer.number and after == offer.number and after != before:
            taken.append(offer)
    return taken, {shipper: record or 0 for shipper, record in records.items()}


def gaps(offers: list[Offer], before: Mapping[bytes, int | None]) -> list[tuple[bytes, int, int]]:
    """Where `offers` raise a record over chunks that were never taken: whose, first, and last.

    `before` are the records of all their shippers.
    """
    found = []
    records = dict(before)
    for offer in offers:
        record = records[offer.shipper]
        if offer.number and (record or 0) < offer.first - 1:
            found.append((offer.shipper, (record or 0) + 1, offer.first - 1))
        records[offer.shipper] = next_record(record, offer)
    return found

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

ACK_VERSION = 2
VERSIONS = range(1, 10)  # what may be one; who begins with another octet speaks something else
# Kinds of messages. The first tells who speaks another version that we do not.
ACK_REFUSAL, ACK_LINES, ACK_ONE, ACK_QUERY, ACK_SAFE, ACK_GOODBYE, ACK_FAREWELL = range(7)
NO_CODING = 0  # of a text: as it is
NO_LIMIT = 2**64 - 1  # of a credit
# Version, kind, coding, shipper, number, first number that the shipper still has, size.
ACK_HEADER = struct.Struct(f">BBBx{SHIPPER_SIZE}sQQQ")
# Version, kind, codings that the collector knows, shipper, number, credit.
ACK_ANSWER = struct.Struct(f">BBBx{SHIPPER_SIZE}sQQ")


class OtherVersion(ValueError):
    """The peer speaks another version of the protocol; the message says which."""

    def __init__(self, version: int) -> None:
        super().__init__(f"it speaks version {version}, and this end version {ACK_VERSION}")


def refuse_other_version(frame: bytes) -> None:
    """Raise OtherVersion where `frame` begins a message of one, whatever comes behind.

    All versions begin with their number and a kind.
    """
    if len(frame) >= 2 and frame[0] in VERSIONS and frame[0] != ACK_VERSION:
        raise OtherVersion(frame[0])


# ---- the shipper's end ------------------------------------------------------------------------


class Window:
    """The chunks that are not known to be safe, in order, and what a connection has had. Pure."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self.credit = NO_LIMIT  # bytes of text that may be under way on the connection
        self._count = 0  # chunks
        self._chunks: dict[bytes, collections.deque[Sendable]] = {}  # by shipper
        self._unsent: collections.deque[tuple[bytes, Sendable]] = collections.deque()
        # What this connection has had and has not answered for: numbers, and sizes of texts.
        self._under_way: dict[bytes, collections.deque[tuple[int, int]]] = {}
        self._under_way_size = 0
        self._last: dict[bytes, Sendable] = {}  # by shipper
        self._elsewhere: set[bytes] = set()  # of whom another connection may have a copy

    def add(self, shipper: bytes, chunk: Sendable) -> None:
        """`chunk` is the next one of `shipper`."""
        self._chunks.setdefault(shipper, collections.deque()).append(chunk)
        self._unsent.append((shipper, chunk))
        self._last[shipper] = chunk
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
        under_way = self._under_way.get(shipper, collections.deque())
        while under_way and under_way[0][0] <= number:
            self._under_way_size -= under_way.popleft()[1]
        return chunks

    def again(self) -> None:
        """The connection is new: it has had nothing."""
        self._elsewhere.update(shipper for shipper, sent in self._under_way.items() if sent)
        self._under_way.clear()
        self._under_way_size = 0
        self.credit = NO_LIMIT
        self._unsent.clear()
        for shipper, held in self._chunks.items():
            self._unsent.extend((shipper, chunk) for chunk in held)

    def message(self) -> list[bytes] | None:
        """The frames of the next chunk that the connection has not had.

        None if it had all, or may not have more before it has answered.
        """
        while self._unsent:
            shipper, chunk = self._unsent[0]
            held = self._chunks.get(shipper)
            if held and held[0].number <= chunk.number:  # it has not become safe meanwhile
                if self._under_way_size >= self.credit:
                    return None
                text = chunk.text()
                if self._under_way_size and self._under_way_size + len(text) > self.credit:
                    return None
                self._unsent.popleft()
                sent = self._under_way.setdefault(shipper, collections.deque())
                sent.append((chunk.number, len(text)))
                self._under_way_size += len(text)
                kind = ACK_LINES if chunk.count() > chunk.batch else ACK_ONE
                place = chunk.number, held[0].number
                return [ACK_HEADER.pack(ACK_VERSION, kind, NO_CODING, shipper, *place, 0), text]
            self._unsent.popleft()
        return None

    def largest_under_way(self) -> int:
        """The size of the largest text that the connection has had and not answered for."""
        return max((size for sent in self._under_way.values() for _, size in sent), default=0)

    def questions(self) -> list[bytes]:
        """For each shipper, the frame that asks what is safe."""
        return [bare(ACK_QUERY, shipper, 0) for shipper in self._chunks]

    def finished(self) -> dict[bytes, Sendable]:
        """The last chunk of each shipper of which all is safe, and of whom nobody has a copy.

        What another connection has had without answering may still be read by a collector: only
        its record tells that it is old. Who has none may be forgotten.
        """
        return {
            shipper: last
            for shipper, last in self._last.items()
            if shipper not in self._chunks and shipper not in self._elsewhere
        }


def bare(kind: int, shipper: bytes, number: int) -> bytes:
    """A message of the shipper's without a text: a query or a goodbye."""
    return ACK_HEADER.pack(ACK_VERSION, kind, NO_CODING, shipper, number, 0, 0)


@dataclasses.dataclass
class Answer:
    """What a collector says."""

    shipper: bytes
    number: int  # all up to this one is safe; of a farewell, the record that is left
    credit: int = NO_LIMIT  # bytes of text that may be under way
    is_farewell: bool = False

    @classmethod
    def read(cls, frames: list[bytes]) -> Answer:
        """The one in a message. Raises ValueError where that is none."""
        try:
            (answer,) = frames
            refuse_other_version(answer)
            version, kind, _, shipper, number, credit = ACK_ANSWER.unpack(answer)
        except struct.error as error:
            raise ValueError(str(error)) from None
        if version != ACK_VERSION or kind not in (ACK_SAFE, ACK_FAREWELL):
            raise ValueError(f"version {version}, kind {kind}")
        return cls(shipper, number, credit, kind == ACK_FAREWELL)

    def frame(self) -> bytes:
        """How it is sent."""
        kind = ACK_FAREWELL if self.is_farewell else ACK_SAFE
        return ACK_ANSWER.pack(ACK_VERSION, kind, NO_CODING, self.shipper, self.number, self.credit)


# ---- the collector's end ----------------------------------------------------------------------


@dataclasses.dataclass
class Offer:
    """A chunk that a shipper offers (docs/protocol.md)."""

    peer: bytes  # whom to answer: an identity of the ROUTER socket
    shipper: bytes
    number: int  # 0: no chunk, but a question or a goodbye
    first: int  # the first number that the shipper still has
    events: list[bytes]
    is_new: bool = False  # a sink has taken it
    last: int = 0  # of a goodbye: the number of the last chunk that there was

    @classmethod
    def read(cls, frames: list[bytes]) -> Offer:
        """The one in a message of the ROUTER socket. Raises ValueError where that is none."""
        try:
            peer, header, *texts = frames
            refuse_other_version(header)
            version, kind, coding, shipper, number, first, _ = ACK_HEADER.unpack(header)
        except struct.error as error:
            raise ValueError(str(error)) from None
        if version != ACK_VERSION:
            raise ValueError(f"version {version}")
        if (kind, texts) == (ACK_QUERY, []):
            return cls(peer, shipper, 0, 0, [])
        if (kind, texts) == (ACK_GOODBYE, []) and number:
            return cls(peer, shipper, 0, 0, [], last=number)
        if kind not in (ACK_LINES, ACK_ONE) or len(texts) != 1:
            raise ValueError(f"kind {kind} with {len(texts)} frames")
        if coding != NO_CODING:
            raise ValueError(f"coding {coding}")
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

"""Acknowledged delivery, `zmqpush.py --ack` to `zmqpull.py --ack`: nothing is lost, or comes twice.

First what is pure: the shipper's window against the collector's book-keeping, through all that can
happen between them. Then each end against a peer that is not ours and knows only the layout of the
frames, written down here once more. Then the two programs: they are killed, stopped, cut off.

Where a test has to wait until the shipper's patience is at its end, the program is a copy with less
of it: tenths of a second. One test has the real times.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import errno
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import zmqpull
import zmqpush
from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.net import free_endpoint, unread
from tests.support.proc import proc_status, wait_until_stopped
from tests.support.programs import TOP, Result, Shipper
from tests.support.waiting import DEADLINE_S, wait_until

# The frames, as they are written down; nothing of the programs' own is used for them.
HEADER = struct.Struct(">BB16sQQ")  # version, kind, shipper, number, first
ANSWER = struct.Struct(">BB16sQ")  # version, kind, shipper, number
LINES, ONE, QUESTION, SAFE = 1, 2, 3, 4

ALICE, BOB = b"alice".ljust(16, b"."), b"bob".ljust(16, b".")

thorough = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# ---- the window -------------------------------------------------------------------------------


def chunk_of(number: int, *messages: bytes, batch: int = 1) -> zmqpush.Finished:
    chunk = zmqpush.Finished(b"\n".join(messages), len(messages), batch)
    chunk.number = number
    return chunk


def window_of(**numbers: list[int]) -> zmqpush.Window:
    """A window with chunks of `alice` and `bob`."""
    window = zmqpush.Window()
    for name, its_numbers in numbers.items():
        for number in its_numbers:
            window.add({"alice": ALICE, "bob": BOB}[name], chunk_of(number, b"%d" % number))
    return window


def given_by(window: zmqpush.Window) -> list[tuple[bytes, int, int]]:
    """Shipper, number and first of the messages that it has to give."""
    return [HEADER.unpack(frames[0])[2:] for frames in iter(window.message, None)]


def test_window_gives_each_chunk_once_and_in_order() -> None:
    window = window_of(alice=[1, 2], bob=[7])
    assert given_by(window) == [(ALICE, 1, 1), (ALICE, 2, 1), (BOB, 7, 7)]
    assert window.message() is None
    window.add(ALICE, chunk_of(3, b"x"))
    assert given_by(window) == [(ALICE, 3, 1)]


def test_window_gives_a_new_connection_all_that_is_not_safe() -> None:
    window = window_of(alice=[1, 2, 3], bob=[7, 8])
    given_by(window)
    window.safe(ALICE, 1)
    window.again()
    window.again()
    given = given_by(window)
    assert [place for place in given if place[0] == ALICE] == [(ALICE, 2, 2), (ALICE, 3, 2)]
    assert [place for place in given if place[0] == BOB] == [(BOB, 7, 7), (BOB, 8, 7)]


def test_window_does_not_give_what_became_safe_before_its_turn() -> None:
    window = window_of(alice=[1, 2, 3], bob=[7])
    window.safe(ALICE, 2)
    window.safe(BOB, 7)
    assert given_by(window) == [(ALICE, 3, 3)]


def test_window_says_the_first_number_that_it_holds_even_where_numbers_are_missing() -> None:
    window = window_of(alice=[5, 6, 9])
    window.safe(ALICE, 6)
    assert given_by(window) == [(ALICE, 9, 9)]


@pytest.mark.parametrize("number", [0, 4])
def test_answer_below_what_is_held_makes_nothing_safe(number: int) -> None:
    window = window_of(alice=[5, 6])
    assert window.safe(ALICE, number) == []
    assert len(given_by(window)) == 2


def test_answer_makes_safe_what_is_there_of_its_shipper_and_nothing_that_comes_later() -> None:
    window = window_of(alice=[5, 6], bob=[5, 6])
    assert [chunk.number for chunk in window.safe(ALICE, 2**64 - 1)] == [5, 6]
    assert window.safe(b"nobody".ljust(16), 6) == []
    window.add(ALICE, chunk_of(7, b"x"))
    assert given_by(window) == [(BOB, 5, 5), (BOB, 6, 5), (ALICE, 7, 7)]


def test_window_is_empty_when_all_is_safe() -> None:
    window = window_of(alice=[1, 2], bob=[1])
    sizes = [window.size]
    for shipper, number in ((ALICE, 1), (ALICE, 1), (BOB, 1), (ALICE, 2)):
        window.safe(shipper, number)
        sizes.append(window.size)
    assert sizes == [6, 4, 4, 2, 0]  # a digit and a line end each
    assert window.questions() == []


def test_window_asks_for_each_shipper_that_it_holds_something_of() -> None:
    window = window_of(alice=[5, 6], bob=[7])
    assert sorted(window.questions()) == [
        HEADER.pack(1, QUESTION, ALICE, 0, 0),
        HEADER.pack(1, QUESTION, BOB, 0, 0),
    ]
    window.safe(BOB, 7)
    assert window.questions() == [HEADER.pack(1, QUESTION, ALICE, 0, 0)]


@pytest.mark.parametrize(("count", "size"), [(zmqpush.WINDOW_CHUNKS, 1), (4, 1024 * 1024)])
def test_window_is_full_with_so_many_chunks_or_bytes_until_some_are_safe(
    count: int, size: int
) -> None:
    window = zmqpush.Window()
    for number in range(1, count + 1):
        assert not window.is_full()
        window.add(ALICE, chunk_of(number, b"x" * size))
    assert window.is_full()
    window.safe(ALICE, 1)
    assert not window.is_full()


@pytest.mark.parametrize(
    ("chunk", "kind", "text"),
    [
        (chunk_of(3, b"a"), ONE, b"a"),
        (chunk_of(3, b"a\nb"), ONE, b"a\nb"),
        (chunk_of(3, b""), ONE, b""),
        (chunk_of(3, b"a", b"b"), LINES, b"a\nb"),
        (chunk_of(3, b"", b""), LINES, b"\n"),
        (zmqpush.Finished(b"[1,2]", 2, batch=2), ONE, b"[1,2]"),
        (zmqpush.Finished(b"[1,2]\n[3]", 3, batch=2), LINES, b"[1,2]\n[3]"),
    ],
)
def test_message_is_laid_out_as_written_down(
    chunk: zmqpush.Finished, kind: int, text: bytes
) -> None:
    chunk.number = 3
    window = zmqpush.Window()
    window.add(ALICE, chunk)
    header = bytes([1, kind]) + ALICE + bytes(7) + b"\x03" + bytes(7) + b"\x03"
    assert window.message() == [header, text]


# ---- what peers may send ----------------------------------------------------------------------


def answer_to(*frames: bytes) -> tuple[bytes, int] | None:
    """What a shipper reads in an answer; None where it is none."""
    try:
        return zmqpush.read_answer(list(frames))
    except ValueError:
        return None


def offer_in(*frames: bytes) -> zmqpull.Offer | None:
    """What a collector reads in a message; None where it is no offer."""
    try:
        return zmqpull.Offer.read([b"peer", *frames])
    except ValueError:
        return None


def test_answer_is_read_as_written_down() -> None:
    assert answer_to(b"\x01\x04" + ALICE + bytes(6) + b"\x01\x02") == (ALICE, 258)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [ANSWER.pack(1, SAFE, ALICE, 1), b""],
        [b"", ANSWER.pack(1, SAFE, ALICE, 1)],
        [ANSWER.pack(0, SAFE, ALICE, 1)],
        [ANSWER.pack(2, SAFE, ALICE, 1)],
        [ANSWER.pack(1, QUESTION, ALICE, 1)],
        [ANSWER.pack(1, SAFE, ALICE, 1)[:-1]],
        [ANSWER.pack(1, SAFE, ALICE, 1) + b"\0"],
        [HEADER.pack(1, SAFE, ALICE, 1, 1)],
    ],
)
def test_what_is_no_answer_is_none(frames: list[bytes]) -> None:
    assert answer_to(*frames) is None


@thorough
@given(st.lists(st.binary(max_size=50), max_size=3))
def test_any_frames_are_an_answer_or_a_value_error(frames: list[bytes]) -> None:
    read = answer_to(*frames)
    assert read is None or frames == [ANSWER.pack(1, SAFE, *read)]


def test_offer_is_read_as_written_down() -> None:
    header = b"\x01\x01" + ALICE + bytes(6) + b"\x01\x02" + bytes(7) + b"\x09"
    offer = zmqpull.Offer.read([b"peer", header, b'{"a":1}\n[{"b":2},{"c":3}]'])
    assert (offer.peer, offer.shipper, offer.number, offer.first) == (b"peer", ALICE, 258, 9)
    assert offer.events == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
    assert not offer.is_new


def test_one_message_may_have_line_ends_in_it() -> None:
    text = b'{"a":\n1}'
    one, lines = (offer_in(HEADER.pack(1, kind, ALICE, 1, 1), text) for kind in (ONE, LINES))
    assert one
    assert lines
    assert one.events == [b'{"a": 1}']
    assert [strict_json(event)["message"] for event in lines.events] == ['{"a":', "1}"]


def test_question_has_no_number_whatever_it_says() -> None:
    offer = offer_in(HEADER.pack(1, QUESTION, ALICE, 2**64 - 1, 2**64 - 1))
    assert offer == zmqpull.Offer(b"peer", ALICE, 0, 0, [])


NO_OFFERS = {
    "nothing": [],
    "an empty frame": [b""],
    "no text": [HEADER.pack(1, LINES, ALICE, 1, 1)],
    "two texts": [HEADER.pack(1, ONE, ALICE, 1, 1), b"{}", b"{}"],
    "a question with a text": [HEADER.pack(1, QUESTION, ALICE, 0, 0), b""],
    "version 0": [HEADER.pack(0, ONE, ALICE, 1, 1), b"{}"],
    "version 2": [HEADER.pack(2, ONE, ALICE, 1, 1), b"{}"],
    "kind 0": [HEADER.pack(1, 0, ALICE, 1, 1), b"{}"],
    "kind 4": [HEADER.pack(1, SAFE, ALICE, 1, 1), b"{}"],
    "number 0": [HEADER.pack(1, ONE, ALICE, 0, 0), b"{}"],
    "first 0": [HEADER.pack(1, ONE, ALICE, 1, 0), b"{}"],
    "first over number": [HEADER.pack(1, ONE, ALICE, 1, 2), b"{}"],
    "a number from which Lua cannot count on": [HEADER.pack(1, ONE, ALICE, 2**53, 1), b"{}"],
    "the greatest number": [HEADER.pack(1, ONE, ALICE, 2**64 - 1, 2**64 - 1), b"{}"],
    "a short header": [HEADER.pack(1, ONE, ALICE, 1, 1)[:-1], b"{}"],
    "a long header": [HEADER.pack(1, ONE, ALICE, 1, 1) + b"\0", b"{}"],
    "an empty frame before": [b"", HEADER.pack(1, ONE, ALICE, 1, 1), b"{}"],
    "an answer": [ANSWER.pack(1, SAFE, ALICE, 1)],
}


@pytest.mark.parametrize("frames", NO_OFFERS.values(), ids=NO_OFFERS)
def test_what_is_no_offer_is_none(frames: list[bytes]) -> None:
    assert offer_in(*frames) is None


def test_a_million_messages_are_a_chunk_and_more_are_none() -> None:
    """Line ends take no room, but the events that they are do."""
    header, most = HEADER.pack(1, LINES, ALICE, 1, 1), 1_000_000
    offer = offer_in(header, b"{}\n" * (most - 1) + b"{}")
    assert offer
    assert len(offer.events) == most
    assert offer_in(header, b"\n" * most) is None
    one = offer_in(HEADER.pack(1, ONE, ALICE, 1, 1), b"\n" * most)
    assert one
    assert len(one.events) == 1


@thorough
@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            HEADER.pack,
            st.integers(0, 2),
            st.integers(0, 5),
            st.binary(min_size=16, max_size=16),
            st.integers(0, 2**64 - 1) | st.integers(0, 3),
            st.integers(0, 2**64 - 1) | st.integers(0, 3),
        ),
    ),
    st.lists(st.one_of(st.binary(max_size=30), st.text('[]{}",\n1a:').map(str.encode)), max_size=2),
)
def test_any_frames_are_an_offer_or_a_value_error(header: bytes, texts: list[bytes]) -> None:
    offer = offer_in(header, *texts)
    if offer:
        version, kind, shipper, number, first = HEADER.unpack(header)
        assert version == 1
        assert offer.shipper == shipper
        if kind == QUESTION:
            assert (offer.number, texts) == (0, [])
        else:
            assert (offer.number, offer.first, len(texts)) == (number, first, 1)
            assert 0 < first <= number < 2**53
            assert all(isinstance(strict_json(event), dict) for event in offer.events)


# ---- everything that can happen, without sockets ----------------------------------------------


class Store:
    """Events and records, as a sink keeps them: in one transaction."""

    def __init__(self, outlives_collector: bool = True) -> None:
        self.outlives_collector = outlives_collector
        self.events: list[bytes] = []
        self.was_wiped = False
        self._records: dict[bytes, int] = {}

    def keep(self, offers: list[zmqpull.Offer]) -> dict[bytes, int]:
        taken, records = zmqpull.sort_out(offers, self._records.get)
        self.events += [event for offer in taken for event in offer.events]
        self._records.update(records)
        return records

    def wipe(self) -> None:
        self._records.clear()
        self.was_wiped = True


@dataclasses.dataclass
class Connection:
    """What is on its way between the shipper and a collector, and lies in their sockets."""

    collector: int
    offers: collections.deque[list[bytes]] = dataclasses.field(default_factory=collections.deque)
    answers: collections.deque[bytes] = dataclasses.field(default_factory=collections.deque)


class Journal:
    """The chunks of one shipper's id; those that are safe are deleted."""

    def __init__(self, shipper: bytes) -> None:
        self.shipper = shipper
        self.held: list[zmqpush.Finished] = []
        self.deleted: list[zmqpush.Finished] = []
        self.count = 0

    def write(self, events: list[bytes]) -> zmqpush.Finished:
        self.count += 1
        self.held.append(chunk_of(self.count, *events))
        return self.held[-1]

    def delete(self, number: int) -> None:
        while self.held and self.held[0].number <= number:
            self.deleted.append(self.held.pop(0))

    def undo(self, count: int) -> None:
        """A loss of power takes back what was deleted last: that was not synced."""
        for _ in range(min(count, len(self.deleted))):
            self.held.insert(0, self.deleted.pop())


class Delivery(RuleBasedStateMachine):
    """One shipper at a time, three collectors, of which two share a store, and a bad network.

    At the end the network is good for a while. Then all that was written has arrived; in a store
    whose records were not wiped, once; and of each shipper, in order.
    """

    WINDOW = 60  # bytes, which are two to four chunks
    EVERYTHING = 10**6

    def __init__(self) -> None:
        super().__init__()
        shared, own = Store(), Store(outlives_collector=False)
        self.stores = [shared, shared, own]  # of the collectors
        self.connections: list[Connection] = []  # the shipper has the last one, if it has any
        self.connected = False
        self.shippers = 0
        self.written: list[bytes] = []
        self.excused: set[bytes] = set()  # died in memory
        self.start_shipper([])

    def start_shipper(self, left_behind: list[Journal]) -> None:
        """It adopts what was left behind; that comes first."""
        self.shippers += 1
        self.own = Journal(self.shippers.to_bytes(16, "big"))
        self.journals = {journal.shipper: journal for journal in [*left_behind, self.own]}
        self.window = zmqpush.Window()
        self.waiting = collections.deque(
            (journal.shipper, chunk) for journal in left_behind for chunk in journal.held
        )
        self.connected = False

    # the shipper

    @rule(events=st.integers(1, 3))
    def write(self, events: int) -> None:
        place = self.shippers, len(self.written)
        texts = [b'{"by":%d,"n":%d}' % (place[0], place[1] + n) for n in range(events)]
        self.written += texts
        self.waiting.append((self.own.shipper, self.own.write(texts)))

    @rule(collector=st.integers(0, 2), asks=st.booleans())
    def connect(self, collector: int, asks: bool) -> None:
        self.connections.append(Connection(collector))
        self.connected = True
        self.window.again()
        if asks:
            self.ask()

    @precondition(lambda self: self.connected)
    @rule()
    def ask(self) -> None:
        self.connections[-1].offers.extend([question] for question in self.window.questions())

    @precondition(lambda self: self.connected)
    @rule(most=st.integers(1, 5))
    def send(self, most: int) -> None:
        while self.waiting and self.window.size < self.WINDOW:
            self.window.add(*self.waiting.popleft())
        for _ in range(most):
            message = self.window.message()
            if not message:
                break
            self.connections[-1].offers.append(message)

    @precondition(lambda self: self.connected and self.connections[-1].answers)
    @rule(most=st.integers(1, 5))
    def read_answers(self, most: int) -> None:
        answers = self.connections[-1].answers
        for _ in range(min(most, len(answers))):
            shipper, number = zmqpush.read_answer([answers.popleft()])
            if self.window.safe(shipper, number):
                self.journals[shipper].delete(number)

    @precondition(lambda self: self.shippers < 4)
    @rule(has_spool=st.booleans(), undone=st.integers(0, 3))
    def kill_shipper(self, has_spool: bool, undone: int) -> None:
        journals = list(self.journals.values())
        if has_spool:
            for journal in journals:
                journal.undo(undone)
            self.start_shipper([journal for journal in journals if journal.held])
        else:
            for journal in journals:
                for chunk in journal.held:
                    self.excused.update(chunk.messages())
            self.start_shipper([])

    # the network

    @precondition(lambda self: self.connected)
    @rule(lost=st.integers(0, 10))
    def cut(self, lost: int) -> None:
        """Answers are lost, and of what was sent, the end; the collector may not have read it."""
        connection = self.connections[-1]
        connection.answers.clear()
        for _ in range(min(lost, len(connection.offers))):
            connection.offers.pop()
        self.connected = False

    # the collectors

    @rule(collector=st.integers(0, 2), most=st.integers(1, 8), data=st.data(), dies=st.booleans())
    def collect(self, collector: int, most: int, data: st.DataObject, dies: bool) -> None:
        """It keeps some of what has come, by connections that may be long gone; and answers."""
        offers: list[zmqpull.Offer] = []
        while len(offers) < most:
            ready = [
                index
                for index, connection in enumerate(self.connections)
                if connection.collector == collector and connection.offers
            ]
            if not ready:
                break
            index = ready[0] if len(ready) == 1 else data.draw(st.sampled_from(ready))
            frames = self.connections[index].offers.popleft()
            offers.append(zmqpull.Offer.read([b"%d" % index, *frames]))
        self.keep(collector, offers)
        if dies:
            self.kill_collector(collector)

    def keep(self, collector: int, offers: list[zmqpull.Offer]) -> None:
        records = self.stores[collector].keep(offers)
        for peer, shipper in {(offer.peer, offer.shipper): None for offer in offers}:
            answer = ANSWER.pack(1, SAFE, shipper, records[shipper])
            self.connections[int(peer)].answers.append(answer)

    @rule(collector=st.integers(0, 2))
    def kill_collector(self, collector: int) -> None:
        for connection in self.connections:
            if connection.collector == collector:
                connection.offers.clear()
                connection.answers.clear()
        if self.connections and self.connections[-1].collector == collector:
            self.connected = False
        if not self.stores[collector].outlives_collector:
            self.stores[collector].wipe()

    @rule(collector=st.integers(0, 2))
    def wipe_records(self, collector: int) -> None:
        self.stores[collector].wipe()

    # the end

    def teardown(self) -> None:
        held, collector = self.count_held(), len(self.connections) % 3
        while held:
            self.connect(collector, asks=True)
            self.send(self.EVERYTHING)
            self.collect_everything(collector)
            self.read_answers(self.EVERYTHING)
            before, held = held, self.count_held()
            assert held < before, "it is stuck"
        for collector in range(3):  # one that was stopped wakes up
            self.collect_everything(collector)
        shared, _, own = self.stores
        assert {*shared.events, *own.events, *self.excused} >= set(self.written), "lost"
        for store in (shared, own):
            if not store.was_wiped:
                assert len(set(store.events)) == len(store.events), "twice"
            arrived = list(map(strict_json, dict.fromkeys(store.events)))
            for shipper in range(self.shippers + 1):
                numbers = [event["n"] for event in arrived if event["by"] == shipper]
                assert numbers == sorted(numbers), "out of order"

    def count_held(self) -> int:
        return sum(len(journal.held) for journal in self.journals.values())

    def collect_everything(self, collector: int) -> None:
        for index, connection in enumerate(self.connections):
            while connection.collector == collector and connection.offers:
                frames = connection.offers.popleft()
                self.keep(collector, [zmqpull.Offer.read([b"%d" % index, *frames])])


TestAnyInterleavingLosesNothingAndRepeatsNothing = pytest.mark.long(Delivery.TestCase)
TestAnyInterleavingLosesNothingAndRepeatsNothing.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None
)


# ---- sinks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of our own."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    pytest.importorskip("redis")
    host, _, port = free_endpoint()[len("tcp://") :].partition(":")
    command = ["redis-server", "--bind", host, "--port", port, "--save", "", "--dir"]
    server = subprocess.Popen(
        [*command, str(tmp_path_factory.mktemp("redis"))], stdout=subprocess.DEVNULL
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    try:
        wait_until(answers, "Redis is there")
        yield f"redis://{host}:{port}/0"
    finally:
        server.kill()
        server.wait()


class Place:
    """Where a collector puts events, looked at from outside."""

    def __init__(self, *options: str) -> None:
        self.options = options

    def count(self) -> int:
        """How many events are there."""
        raise NotImplementedError

    def events(self) -> list[bytes]:
        raise NotImplementedError

    def messages(self) -> list[str]:
        return [strict_json(event)["message"] for event in self.events()]

    def wait_for(self, count: int, deadline_s: float = DEADLINE_S) -> None:
        wait_until(lambda: self.count() >= count, f"{count} events", deadline_s)

    def wait_for_more(self, count: int, of: list[str]) -> None:
        """Wait for at least one more, and so many in all; not if all have come."""
        self.wait_for(min(max(self.count() + 1, count), len(of)))


class InFile(Place):
    def __init__(self, path: Path) -> None:
        super().__init__("--output", str(path))
        self._path = path
        self._counted = 0  # lines, in so many bytes
        self._bytes = 0

    def count(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._bytes)
                more = file.read()
            self._counted += more.count(b"\n")
            self._bytes += len(more)
        return self._counted

    def events(self) -> list[bytes]:
        written = self._path.read_bytes()
        return written[: written.rfind(b"\n") + 1].splitlines()  # the last line may be half there


class InSqlite(Place):
    def __init__(self, path: Path) -> None:
        super().__init__("--sqlite", str(path))
        self._path = path

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """What the database says; nothing where it is not there yet."""
        with contextlib.suppress(sqlite3.OperationalError), self.open() as db:
            return db.execute(query).fetchall()
        return []

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as db:
            yield db

    def count(self) -> int:
        return int((self.ask("SELECT coalesce(max(id), 0) FROM event") or [(0,)])[0][0])

    def events(self) -> list[bytes]:
        return [text.encode() for (text,) in self.ask("SELECT event FROM event ORDER BY id")]

    def records(self) -> dict[bytes, int]:
        return dict(self.ask("SELECT id, record FROM shipper"))

    def wipe_records(self) -> int:
        """Returns how many there were."""
        with self.open() as db:
            db.execute("PRAGMA busy_timeout = 10000")
            return db.execute("DELETE FROM shipper").rowcount


class InRedis(Place):
    def __init__(self, url: str, key: str) -> None:
        import redis

        super().__init__("--redis", url, "--key", key)
        self._key = key
        self._redis = redis.Redis.from_url(url)

    def count(self) -> int:
        return int(self._redis.llen(self._key))

    def events(self) -> list[bytes]:
        events: list[bytes] = self._redis.lrange(self._key, 0, -1)  # type: ignore[assignment]
        return events

    def wipe_records(self) -> int:
        """Returns how many there were. Redis forgets the script, too, as when it is restarted."""
        self._redis.script_flush()
        names: list[bytes] = self._redis.keys(f"zmqpull:{self._key}:*")  # type: ignore[assignment]
        return int(self._redis.delete(*names))


@pytest.fixture(params=["file", "redis", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "file":
        return InFile(tmp_path / "events")
    if request.param == "sqlite":
        return InSqlite(tmp_path / "events.db")
    return InRedis(request.getfixturevalue("redis_url"), tmp_path.name)


_serials = iter(range(10**9))
numbers = st.integers(1, 8) | st.integers(2**53 - 3, 2**53 - 1)


@st.composite
def any_offer(draw: st.DrawFn) -> zmqpull.Offer:
    shipper = draw(st.sampled_from([ALICE, BOB]))
    if draw(st.integers(0, 5)) == 5:
        return zmqpull.Offer(b"peer", shipper, 0, 0, [])
    first, number = sorted([draw(numbers), draw(numbers)])
    events = [b'{"n":%d}' % next(_serials) for _ in range(draw(st.integers(0, 2)))]
    return zmqpull.Offer(b"peer", shipper, number, first, events)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["file", "redis", "sqlite"])
@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(any_offer(), max_size=5)))
def test_every_sink_keeps_its_books_by_the_same_rule(
    kind: str,
    batches: list[list[zmqpull.Offer]],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    """Those of Redis are kept by a script in Lua."""
    folder = tmp_path_factory.mktemp("books")
    reference = Store()

    async def keep_all(sink: zmqpull.Sink) -> None:
        for offers in batches:
            before = len(reference.events)
            records = reference.keep(offers)
            assert await sink.keep(offers) == records
            new = [event for offer in offers if offer.is_new for event in offer.events]
            assert new == reference.events[before:]

    async def keep_all_in_redis() -> None:
        await keep_all(zmqpull.RedisList(url, str(folder), 0))  # which is of this event loop

    place: Place
    if kind == "file":
        place = InFile(folder / "events")
        with open(folder / "events", "ab") as file:
            asyncio.run(keep_all(zmqpull.Descriptor(file.fileno(), "a file")))
    elif kind == "sqlite":
        place = InSqlite(folder / "events.db")
        sink = zmqpull.Sqlite(place.options[1])
        with contextlib.closing(sink._db):
            asyncio.run(keep_all(sink))
    else:
        url = request.getfixturevalue("redis_url")
        place = InRedis(url, str(folder))
        asyncio.run(keep_all_in_redis())
    assert place.events() == reference.events


def test_sink_that_cannot_sync_has_not_kept_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk did not take is written again: the kernel may have dropped it (fsync(2))."""
    offer = zmqpull.Offer(b"peer", ALICE, 1, 1, [b'{"n":1}'])
    with open(tmp_path / "events", "ab") as file:
        sink = zmqpull.Descriptor(file.fileno(), "a file")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _fail_to_sync)
            with pytest.raises(zmqpull.Trouble, match="Input/output error"):
                asyncio.run(sink.keep([offer]))
        assert not offer.is_new
        assert asyncio.run(sink.keep([offer])) == {ALICE: 1}
    assert offer.is_new
    assert (tmp_path / "events").read_bytes() == b'{"n":1}\n' * 2


@pytest.mark.parametrize("fails", [False, True], ids=["", "in vain"])
def test_file_that_is_renamed_while_it_is_synced_is_left_when_that_has_ended(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sync in vain was for is written again, to the new file."""
    path, old = tmp_path / "events", tmp_path / "old"
    offers = [zmqpull.Offer(b"peer", ALICE, n, 1, [b'{"n":%d}' % n]) for n in (1, 2)]
    synced: list[int] = []  # inodes
    begun, go_on = threading.Event(), threading.Event()

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        begun.set()
        assert go_on.wait(DEADLINE_S)
        if fails and len(synced) == 1:
            _fail_to_sync(descriptor)

    async def rotate() -> None:
        sink = zmqpull.File(str(path))
        keeping = asyncio.ensure_future(sink.keep(offers[:1]))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait)
        path.rename(old)
        sink.reopen()
        assert not path.exists()
        go_on.set()
        if fails:
            with pytest.raises(zmqpull.Trouble):
                await keeping
            assert await sink.keep(offers[:1]) == {ALICE: 1}
        else:
            assert await keeping == {ALICE: 1}
        assert await sink.keep(offers[1:]) == {ALICE: 2}

    monkeypatch.setattr(os, "fsync", sync)
    asyncio.run(rotate())
    assert synced == [file.stat().st_ino for file in ((old, path, path) if fails else (old, path))]
    assert old.read_bytes() == b'{"n":1}\n'
    assert path.read_bytes() == (b'{"n":1}\n' if fails else b"") + b'{"n":2}\n'


def _fail_to_sync(descriptor: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_file_remembers_ten_thousand_shippers_and_forgetting_one_stops_nothing() -> None:
    def offer(shipper: int, number: int) -> zmqpull.Offer:
        return zmqpull.Offer(b"peer", shipper.to_bytes(16, "big"), number, number, [b"{}"])

    with open(os.devnull, "wb") as nothing:
        sink = zmqpull.Descriptor(nothing.fileno(), "nothing")
        again = [offer(serial, 1) for serial in (0, 1, 10_000)]
        later = offer(0, 7)
        for offers in ([offer(serial, 1) for serial in range(10_001)], again, [later]):
            asyncio.run(sink.keep(offers))
    assert [offer.is_new for offer in again] == [True, False, False]
    assert later.is_new


def test_pipe_may_have_any_descriptor(tmp_path: Path) -> None:
    """With thousands of connections it may have one that is too high for select()."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2000:
        pytest.skip("so many descriptors are not allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    reading, writing = os.pipe()
    try:
        sink = zmqpull.Descriptor(os.dup2(writing, 1999), "a pipe")
        asyncio.run(sink.write([b"{}"]))
        assert os.read(reading, 10) == b"{}\n"
    finally:
        for descriptor in (reading, writing, 1999):
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_pipe_needs_no_sync(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    sink = zmqpull.Descriptor(writing, "a pipe")
    offer = zmqpull.Offer(b"peer", ALICE, 1, 1, [b'{"n":1}'])
    assert asyncio.run(sink.keep([offer])) == {ALICE: 1}
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read() == b'{"n":1}\n'


# ---- the programs -----------------------------------------------------------------------------


PATIENCE_S = 0.3  # of the hasty program


def copy_with(folder: Path, **constants: float) -> str:
    """A zmqpush.py of which only these constants are different."""
    source = (TOP / "zmqpush.py").read_text(encoding="utf-8")
    for name, value in constants.items():
        source, count = re.subn(rf"^{name} = [\d.]+", f"{name} = {value}", source, flags=re.M)
        assert count == 1, name
    path = folder / "zmqpush.py"
    path.write_text(source, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A zmqpush.py whose patience is short."""
    folder = tmp_path_factory.mktemp("hasty")
    return copy_with(folder, ANSWER_S=PATIENCE_S, LONGEST_PATIENCE_S=2 * PATIENCE_S)


@pytest.fixture
def pull(ship: Ship) -> Ship:
    """Starts collectors; it takes their endpoint, and options."""

    def start(endpoint: str, *options: str, **settings: Any) -> Shipper:
        arguments = ("--ack", "--bind", endpoint, *options)
        return ship(*arguments, program="zmqpull.py", **settings)

    return start


def texts(count: int, start: int = 0, size: int = 10) -> list[str]:
    return [f"{number:0{size}}" for number in range(start, start + count)]


def as_input(texts: list[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def memory(pid: int) -> int:
    """Bytes in use."""
    return int(proc_status(pid, "VmRSS").split()[0]) * 1024


def switches(pid: int) -> int:
    """How often its main thread was taken off the processor."""
    names = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    return sum(int(proc_status(pid, name)) for name in names)


def wakeups(pid: int, for_s: float) -> int:
    """How often its main thread woke up in so many seconds."""
    before = switches(pid)
    time.sleep(for_s)
    return switches(pid) - before


def wait_until_asleep(pid: int) -> None:
    """Wait until it has done its work, and sleeps."""
    wait_until(
        lambda: not wakeups(pid, 0.2) and proc_status(pid, "State").startswith("S"), "asleep"
    )


def wait_until_read(shipper: Shipper) -> None:
    """Wait until it has taken all that was written, and sleeps: then it is journaled, too."""
    stdin = shipper.process.stdin
    assert stdin
    wait_until(lambda: not unread(stdin.fileno()), "the pipe is empty")
    wait_until_asleep(shipper.pid)


def stop(process: Shipper) -> None:
    """Stop it with SIGSTOP, and wait until it is."""
    process.signal(signal.SIGSTOP)
    wait_until_stopped(process.pid)


def kill(process: Shipper) -> None:
    process.signal(signal.SIGKILL)
    process.process.wait(DEADLINE_S)


def end(collector: Shipper) -> str:
    """End a collector in an orderly manner; returns what it said."""
    collector.signal(signal.SIGTERM)
    result = collector.finish()
    assert (result.status, result.stdout) == (0, "")
    return result.stderr


def trouble(result: Result) -> str:
    """What a shipper said, but that it waits for an answer: here that may be for a busy machine."""
    return re.sub(r"zmqpush\.py: the input has ended; .*\n", "", result.stderr)


class Feeder(threading.Thread):
    """Writes into a shipper's standard input as fast as it is read, and ends it if told so."""

    def __init__(self, shipper: Shipper, data: bytes, ends: bool = True) -> None:
        super().__init__(daemon=True)
        self._shipper = shipper
        self._data = data
        self._ends = ends
        self.start()

    def run(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._shipper.write(self._data)
            if self._ends:
                self._shipper.end_input()


# ---- peers that are not ours ------------------------------------------------------------------


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


@pytest.fixture
def our_collector() -> Iterator[OurCollector]:
    collector = OurCollector()
    yield collector
    collector.close()


def test_shipper_speaks_the_protocol_as_written_down(
    our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint, "app")
    shipper.write(b"one\ntwo\n")
    first = our_collector.receive_chunk()
    event = '{"message":"%s","type":"app","@pid":%d}'
    expected = "\n".join(event % (text, shipper.pid) for text in ("one", "two"))
    assert first == Message(first.peer, LINES, first.shipper, 1, 1, [expected.encode()])
    shipper.write(b"three\n")
    second = our_collector.receive_chunk()
    text = (event % ("three", shipper.pid)).encode()
    assert second == Message(first.peer, ONE, first.shipper, 2, 1, [text])
    our_collector.answer(first, 1)
    our_collector.answer(second, 2)
    wait_until_asleep(shipper.pid)
    shipper.write(b"four\n")
    third = our_collector.receive_chunk()
    assert (third.number, third.first) == (3, 3)
    our_collector.answer(third, 3)
    result = shipper.finish()
    assert (result.status, result.processed, trouble(result)) == (0, 4, "")


def test_an_array_is_one_message_and_several_are_lines(
    our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint, "--batch", "2")
    shipper.write(b"1\n2\n")
    one = our_collector.receive_chunk()
    shipper.write(b"1\n2\n3\n")
    two = our_collector.receive_chunk()
    sizes = [[len(strict_json(line)) for line in m.texts[0].split(b"\n")] for m in (one, two)]
    assert [one.kind, two.kind] == [ONE, LINES]
    assert sizes == [[2], [2, 1]]


@pytest.mark.long
def test_shipper_waits_for_a_late_answer_which_is_good_for_all_before(
    our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint)
    for text in (b"1\n", b"2\n", b"3\n"):
        shipper.write(text)
        chunk = our_collector.receive_chunk()
    shipper.end_input()
    assert shipper.read_stderr_line() == (
        "zmqpush.py: the input has ended; 3 messages wait for a collector at "
        f"{our_collector.endpoint}\n"
    )
    our_collector.answer(chunk, 2)
    wait_until_asleep(shipper.pid)
    assert shipper.process.poll() is None
    our_collector.answer(chunk, 3)
    result = shipper.finish()
    assert (result.status, result.processed, trouble(result)) == (0, 3, "")


def test_answer_that_came_just_before_the_end_of_the_connection_counts(
    our_collector: OurCollector, ship: Ship
) -> None:
    """A collector may go when it has answered; and nobody else may come."""
    shipper = ship("--ack", "-c", our_collector.endpoint)
    shipper.write(b"1\n")
    chunk = our_collector.receive_chunk()
    shipper.end_input()
    assert "; 1 messages wait " in shipper.read_stderr_line()
    stop(shipper)
    our_collector.answer(chunk, 1)
    our_collector.close()
    shipper.signal(signal.SIGCONT)
    result = shipper.finish()
    assert (result.status, result.processed, trouble(result)) == (0, 1, "")


@pytest.mark.long
def test_answers_that_say_less_or_too_much_do_no_harm(
    our_collector: OurCollector, ship: Ship
) -> None:
    """A number that was never sent makes safe what is under way, and nothing that comes later."""
    shipper = ship("--ack", "-c", our_collector.endpoint)
    shipper.write(b"1\n")
    chunk = our_collector.receive_chunk()
    for number in (0, 2**64 - 1, 1, 0):
        our_collector.answer(chunk, number)
    wait_until_asleep(shipper.pid)
    shipper.write(b"2\n")
    chunk = our_collector.receive_chunk()
    assert (chunk.number, chunk.first) == (2, 2)
    our_collector.answer(chunk, 1)
    shipper.end_input()
    assert "; 1 messages wait " in shipper.read_stderr_line()
    our_collector.answer(chunk, 2)
    result = shipper.finish()
    assert (result.status, result.processed, trouble(result)) == (0, 2, "")


@pytest.mark.long
def test_nonsense_from_a_collector_is_said_once_and_ignored(
    our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint)
    shipper.write(b"1\n")
    chunk = our_collector.receive_chunk()
    good = ANSWER.pack(1, SAFE, chunk.shipper, 1)
    nonsense = [
        [b""],
        [b"", good],
        [good, b""],
        [good[:-1]],
        [ANSWER.pack(2, SAFE, chunk.shipper, 1)],
        [HEADER.pack(1, ONE, chunk.shipper, 1, 1), b"{}"],
        [random.Random(2120).randbytes(100_000)],
        [b"x"] * 1000,
    ]
    for frames in [*nonsense, *nonsense, [ANSWER.pack(1, SAFE, b"somebody else's.", 1)]]:
        our_collector.send(chunk, *frames)
    wait_until_asleep(shipper.pid)
    shipper.end_input()
    said = shipper.read_stderr_line()
    prefix = f"zmqpush.py: {our_collector.endpoint} does not speak the protocol of --ack: "
    assert said.startswith(prefix)
    assert "; 1 messages wait " in shipper.read_stderr_line()
    our_collector.answer(chunk, 1)
    result = shipper.finish()
    assert (result.status, result.processed, trouble(result)) == (0, 1, "")


@pytest.mark.long
def test_more_goes_out_than_libzmq_takes_at_once(ship: Ship) -> None:
    """Without a polling loop, and without an answer that would wake the shipper."""
    with contextlib.closing(OurCollector(RCVHWM=1, RCVBUF=4096)) as collector:
        shipper = ship("--ack", "-c", collector.endpoint, "--sndhwm", "1", "--format", "raw")
        expected = texts(30, size=100_000)
        Feeder(shipper, as_input(expected))
        received: list[bytes] = []
        while len(received) < len(expected):
            received += collector.receive_chunk().texts[0].split(b"\n")
        assert [text.decode() for text in received] == expected


def test_shipper_ends_when_all_is_safe_whatever_has_not_gone_out(ship: Ship) -> None:
    """A collector may know what it has not read: from another collector, for one."""
    with contextlib.closing(OurCollector(RCVHWM=1, RCVBUF=4096)) as collector:
        shipper = ship("--ack", "-c", collector.endpoint, "--sndhwm", "1", "--format", "raw")
        Feeder(shipper, as_input(texts(200, size=100_000)))
        chunk = collector.receive_chunk()

        def has_ended() -> bool:
            collector.answer(chunk, 2**64 - 1)
            return shipper.process.poll() is not None

        wait_until(has_ended, "it has ended")
        assert shipper.finish().status == 0


@pytest.mark.long
def test_late_answer_is_asked_for_on_the_connection_that_stands(
    hasty: str, our_collector: OurCollector, ship: Ship
) -> None:
    """What was sent is not sent again there: TCP has lost nothing."""
    shipper = ship("--ack", "-c", our_collector.endpoint, program=hasty)
    for text in (b"1\n", b"2\n"):
        shipper.write(text)
        chunk = our_collector.receive_chunk()
    question = our_collector.receive_question()
    assert (question.peer, question.shipper) == (chunk.peer, chunk.shipper)
    our_collector.answer(question, 1)
    question = our_collector.receive_question()
    assert question.peer == chunk.peer
    our_collector.answer(question, 2)
    assert our_collector.is_silent(4 * PATIENCE_S)
    result = shipper.finish()
    assert (result.status, result.processed, trouble(result)) == (0, 2, "")


@pytest.mark.long
def test_silent_collector_is_left_and_what_is_not_safe_is_sent_again_when_it_is_asked_for(
    hasty: str, our_collector: OurCollector, ship: Ship
) -> None:
    """A new connection begins with a question: who cannot answer need not be given anything."""
    shipper = ship("--ack", "-c", our_collector.endpoint, program=hasty)
    sent = []
    for text in (b"1\n", b"2\n", b"3\n"):
        shipper.write(text)
        sent.append(our_collector.receive_chunk())
    our_collector.answer(sent[0], 1)
    for _ in range(3):  # the first one asks on the connection that stands
        question = our_collector.receive_question()
    assert question.peer != sent[0].peer
    assert question.shipper == sent[0].shipper
    our_collector.answer(question, 0)
    again = [our_collector.receive_chunk() for _ in range(2)]
    assert [(chunk.number, chunk.first) for chunk in again] == [(2, 2), (3, 2)]
    assert [chunk.texts for chunk in again] == [chunk.texts for chunk in sent[1:]]
    our_collector.answer(again[-1], 3)
    result = shipper.finish()
    assert (result.status, result.processed, trouble(result)) == (0, 3, "")


@pytest.mark.long
def test_what_turns_out_to_be_safe_is_not_sent_again(
    hasty: str, our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint, program=hasty)
    for text in (b"1\n", b"2\n", b"3\n"):
        shipper.write(text)
        first = our_collector.receive_chunk()
    while (question := our_collector.receive_question()).peer == first.peer:
        pass
    our_collector.answer(question, 2)
    chunk = our_collector.receive_chunk()
    assert (chunk.number, chunk.first) == (3, 3)
    our_collector.answer(chunk, 3)
    result = shipper.finish()
    assert (result.status, result.processed, trouble(result)) == (0, 3, "")


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


@pytest.fixture
def our_shipper() -> Iterator[Callable[[str], OurShipper]]:
    with contextlib.ExitStack() as stack:

        def start(endpoint: str) -> OurShipper:
            return stack.enter_context(contextlib.closing(OurShipper(endpoint)))

        yield start


def test_collector_answers_as_written_down_what_its_sink_has(
    place: Place, our_shipper: Callable[[str], OurShipper], pull: Ship
) -> None:
    """Chunks are taken in order; repeated ones, and those after a gap, only answered."""
    endpoint = free_endpoint()
    collector = pull(endpoint, *place.options)
    shipper = our_shipper(endpoint)

    def offer(number: int, first: int, expected: int, who: bytes = ALICE) -> None:
        shipper.offer(who, number, first, b'{"message":"%b %d"}' % (who[:3], number))
        assert shipper.answer() == (who, expected)

    shipper.ask(ALICE)
    assert shipper.answer() == (ALICE, 0)
    offer(1, 1, 1)
    offer(1, 1, 1)
    offer(3, 1, 1)  # a gap
    offer(2, 1, 2)
    offer(3, 1, 3)
    offer(2, 1, 3)
    offer(1000, 1000, 1000)  # it begins later: what is before is safe elsewhere
    offer(4, 4, 1000)  # an old one
    offer(1, 1, 1, BOB)
    shipper.ask(ALICE)
    assert shipper.answer() == (ALICE, 1000)
    offer(7, 6, 5, b"a new one that begins at a gap"[:16])
    offer(2**53 - 1, 2**53 - 1, 2**53 - 1)
    offer(2**53 - 1, 1, 2**53 - 1)
    assert place.messages() == [
        *("ali 1", "ali 2", "ali 3", "ali 1000", "bob 1", "ali 9007199254740991")
    ]
    assert end(collector) == "zmqpull.py: 6 events written\n"


@pytest.mark.long
def test_collector_keeps_what_comes_at_once_and_in_any_mixture(
    place: Place, our_shipper: Callable[[str], OurShipper], pull: Ship
) -> None:
    endpoint = free_endpoint()
    collector = pull(endpoint, *place.options)
    one, two = our_shipper(endpoint), our_shipper(endpoint)
    for shipper in (one, two):
        shipper.ask(ALICE)
        assert shipper.answer() == (ALICE, 0)
    stop(collector)
    rng = random.Random(2120)
    for number in range(1, 301):
        for shipper, who in ((one, ALICE), (two, BOB)):
            for repeated in {number, max(1, number - rng.randrange(5))}:
                shipper.offer(who, repeated, 1, b'{"message":"%b %d"}' % (who[:3], repeated))
    collector.signal(signal.SIGCONT)
    one.answers((ALICE, 300))
    two.answers((BOB, 300))
    messages = place.messages()
    assert len(messages) == 600
    for name in ("ali", "bob"):
        expected = [f"{name} {number}" for number in range(1, 301)]
        assert [text for text in messages if text.startswith(name)] == expected


def test_question_is_answered_by_what_was_kept_before_it(
    our_shipper: Callable[[str], OurShipper], pull: Ship, tmp_path: Path
) -> None:
    endpoint = free_endpoint()
    pull(endpoint, *InSqlite(tmp_path / "events.db").options)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, b"{}")
    shipper.offer(ALICE, 2, 1, b"{}")
    shipper.ask(ALICE)
    shipper.answers((ALICE, 2))


# ---- from a pipe into sinks -------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, redis_url: str) -> list[Place]:
    """One of each kind."""
    return [
        InFile(tmp_path / "events"),
        InRedis(redis_url, tmp_path.name),
        InSqlite(tmp_path / "events.db"),
    ]


def options_of(places: list[Place]) -> list[str]:
    return [word for place in places for word in place.options]


def test_of_several_sinks_the_answer_is_what_the_last_of_them_has(
    places: list[Place], our_shipper: Callable[[str], OurShipper], pull: Ship
) -> None:
    """Here it is the file, whose record is in memory."""
    endpoint = free_endpoint()
    collector = pull(endpoint, *options_of(places))
    shipper = our_shipper(endpoint)
    for number in (1, 2, 3):
        shipper.offer(ALICE, number, 1, b'{"message":"%d"}' % number)
        assert shipper.answer() == (ALICE, number)
    kill(collector)
    pull(endpoint, *options_of(places))
    shipper = our_shipper(endpoint)
    shipper.ask(ALICE)
    assert shipper.answer() == (ALICE, 0)
    for number in (2, 3, 4):
        shipper.offer(ALICE, number, 2, b'{"message":"%d"}' % number)
        assert shipper.answer() == (ALICE, number)
    in_file, in_redis, in_sqlite = (place.messages() for place in places)
    assert in_file == ["1", "2", "3", "2", "3", "4"]
    assert in_redis == in_sqlite == ["1", "2", "3", "4"]


def test_nothing_is_answered_while_one_of_several_sinks_fails(
    places: list[Place], our_shipper: Callable[[str], OurShipper], pull: Ship
) -> None:
    endpoint, database = free_endpoint(), places[2]
    assert isinstance(database, InSqlite)
    collector = pull(endpoint, *options_of(places))
    shipper = our_shipper(endpoint)
    shipper.ask(ALICE)
    assert shipper.answer() == (ALICE, 0)
    with database.open() as db:
        db.execute("PRAGMA busy_timeout = 10000")
        db.execute("BEGIN EXCLUSIVE")
        shipper.offer(ALICE, 1, 1, b'{"message":"1"}')
        assert "the senders have to wait" in collector.read_stderr_line()
        for place in places[:2]:
            place.wait_for(1)
        assert not shipper.socket.poll(500)
        db.execute("ROLLBACK")
    assert shipper.answer() == (ALICE, 1)
    for place in places:
        assert place.messages() == ["1"]


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [[], ["--batch", "500"], ["--format", "json"], ["--format", "raw"], ["--spool", "SPOOL"]],
    ids=" ".join,
)
def test_every_line_arrives_once_and_in_order(
    options: list[str], places: list[Place], tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    endpoint = free_endpoint()
    collector = pull(endpoint, *options_of(places))
    options = [str(tmp_path / word) if word == "SPOOL" else word for word in options]
    expected = texts(10_000)
    result = ship("--ack", "-c", endpoint, *options).finish(as_input(expected))
    for place in places:
        assert place.messages() == expected
    assert (result.status, result.processed) == (0, 10_000)
    assert end(collector) == "zmqpull.py: 10000 events written\n"


@pytest.mark.long
def test_lines_of_a_million_bytes_arrive(places: list[Place], pull: Ship, ship: Ship) -> None:
    endpoint = free_endpoint()
    pull(endpoint, *options_of(places))
    expected = [f"{number}" * 1_000_000 for number in range(10)]
    result = ship("--ack", "-c", endpoint).finish(as_input(expected))
    for place in places:
        assert place.messages() == expected
    assert (result.status, result.processed) == (0, 10)


@pytest.mark.long
@pytest.mark.parametrize("form", ["logstash", "json", "raw"])
def test_empty_lines_arrive(form: str, tmp_path: Path, pull: Ship, ship: Ship) -> None:
    endpoint = free_endpoint()
    place = InFile(tmp_path / "events")
    pull(endpoint, *place.options)
    shipper = ship("--ack", "-c", endpoint, "--format", form)
    shipper.write(b"\n")  # a chunk of its own
    place.wait_for(1)
    result = shipper.finish(b"\n\nx\n\n")
    assert place.messages() == ["", "", "", "x", ""]
    assert (result.status, result.processed) == (0, 5)


@pytest.mark.long
def test_raw_objects_and_arrays_are_events_as_they_are(
    tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """An empty array is none; but it is acknowledged."""
    endpoint = free_endpoint()
    place = InFile(tmp_path / "events")
    pull(endpoint, *place.options)
    shipper = ship("--ack", "-c", endpoint, "--format", "raw")
    result = shipper.finish(b'{"a":1}\n[{"b":2},{"c":3}]\n[]\n')
    assert place.events() == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
    assert (result.status, result.processed) == (0, 3)


# ---- what cannot be delivered -----------------------------------------------------------------


@pytest.mark.long
def test_without_a_collector_linger_gives_up_with_the_exact_count(ship: Ship) -> None:
    shipper = ship("--ack", "-c", free_endpoint(), "--linger", "0.5")
    result = shipper.finish(as_input(texts(12_345)))
    assert (result.status, result.processed) == (1, 0)
    assert trouble(result) == (
        "zmqpush.py: gave up 12345 messages: no collector has acknowledged them\n"
    )


def test_what_is_not_acknowledged_counts_as_given_up(
    our_collector: OurCollector, ship: Ship
) -> None:
    """That it was sent does not mean anything."""
    shipper = ship("--ack", "-c", our_collector.endpoint, "--linger", "0.2")
    for text in (b"1\n", b"2\n3\n", b"4\n"):
        shipper.write(text)
        chunk = our_collector.receive_chunk()
    our_collector.answer(chunk, 2)
    wait_until_asleep(shipper.pid)
    result = shipper.finish()
    assert (result.status, result.processed) == (1, 3)
    assert trouble(result) == "zmqpush.py: gave up 1 messages: no collector has acknowledged them\n"


def test_with_a_spool_what_waits_is_kept_and_the_next_one_sends_it(
    tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    endpoint, spool = free_endpoint(), str(tmp_path / "spool")
    expected = texts(2000)
    options = ("--ack", "-c", endpoint, "--spool", spool)
    result = ship(*options, "--linger", "0.2").finish(as_input(expected))
    assert (result.status, result.processed) == (0, 0)
    assert trouble(result) == (
        f"zmqpush.py: 2000 messages wait in {spool}, and 0 that were handed over and may have "
        "arrived: the next start sends them\n"
    )
    place = InSqlite(tmp_path / "events.db")
    pull(endpoint, *place.options)
    result = ship(*options).finish(b"")
    assert (result.status, result.processed) == (0, 2000)
    assert place.messages() == expected
    assert os.listdir(spool) == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_gives_up_with_the_exact_count_of_what_was_not_acknowledged(
    number: signal.Signals, our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint)
    for text in (b"1\n", b"2\n3\n", b"4\n5\n6\n"):
        shipper.write(text)
        chunk = our_collector.receive_chunk()
    our_collector.answer(chunk, 2)
    wait_until_asleep(shipper.pid)
    shipper.signal(number)
    result = shipper.finish()
    assert (result.status, result.processed) == (1, 3)
    expected = "zmqpush.py: gave up 3 messages: no collector has acknowledged them\n"
    assert trouble(result) == expected


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_in_the_spool_what_was_not_acknowledged(
    number: signal.Signals, tmp_path: Path, our_collector: OurCollector, ship: Ship
) -> None:
    spool = str(tmp_path / "spool")
    options = ("--ack", "-c", our_collector.endpoint, "--spool", spool)
    shipper = ship(*options)
    for text in (b"1\n", b"2\n3\n", b"4\n5\n6\n"):
        shipper.write(text)
        chunk = our_collector.receive_chunk()
    our_collector.answer(chunk, 2)
    wait_until_asleep(shipper.pid)
    shipper.signal(number)
    result = shipper.finish()
    assert (result.status, result.processed) == (0, 3)
    assert trouble(result).startswith(f"zmqpush.py: 3 messages wait in {spool}, and 0 that were ")
    shipper = ship(*options)
    again = our_collector.receive_chunk()
    assert (again.shipper, again.number, again.first) == (chunk.shipper, 3, 3)
    assert again.texts == chunk.texts
    our_collector.answer(again, 3)
    assert shipper.finish().processed == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_answer_that_comes_soon_after_a_signal_counts(
    number: signal.Signals, our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint)
    shipper.write(b"1\n")
    chunk = our_collector.receive_chunk()
    shipper.signal(number)
    our_collector.answer(chunk, 1)
    result = shipper.finish()
    assert (result.status, result.processed) == (0, 1)


# ---- who is killed, and comes back ------------------------------------------------------------


@pytest.mark.long
def test_collector_that_is_killed_again_and_again_loses_nothing(
    place: Place, pull: Ship, ship: Ship
) -> None:
    """Nor does anything come twice, but into a file: its record is in memory."""
    endpoint = free_endpoint()
    collector = pull(endpoint, *place.options)
    shipper = ship("--ack", "-c", endpoint)
    expected = texts(200_000, size=50)
    Feeder(shipper, as_input(expected))
    for count in (10_000, 20_000, 30_000):
        place.wait_for_more(count, of=expected)
        kill(collector)
        collector = pull(endpoint, *place.options)
    result = shipper.finish()
    events = place.events()
    if isinstance(place, InFile):
        events = [event for event in dict.fromkeys(events) if event.endswith(b"}")]  # whole ones
    assert [strict_json(event)["message"] for event in events] == expected
    assert (result.status, result.processed) == (0, len(expected))


@pytest.mark.long
def test_collector_that_ends_in_an_orderly_manner_repeats_nothing_in_a_file(
    tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """It answers for what it has written, and leaves the rest to the shipper, at once."""
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    collector = pull(endpoint, *place.options)
    shipper = ship("--ack", "-c", endpoint)
    expected = texts(400_000, size=50)
    Feeder(shipper, as_input(expected))
    for count in (10_000, 20_000, 30_000):
        place.wait_for_more(count, of=expected)
        assert re.fullmatch(r"zmqpull\.py: \d+ events written\n", end(collector))
        collector = pull(endpoint, *place.options)
    result = shipper.finish()
    assert place.messages() == expected
    assert (result.status, result.processed) == (0, len(expected))


def test_endless_nonsense_does_not_keep_a_collector_from_ending(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, pull: Ship
) -> None:
    endpoint = free_endpoint()
    collector = pull(endpoint, *InFile(tmp_path / "events").options)
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


def test_what_comes_while_a_collector_ends_is_no_trouble(
    our_shipper: Callable[[str], OurShipper],
) -> None:
    """In the turn of the event loop in which it closes its socket, that may have news."""
    endpoint, troubles = free_endpoint(), []

    async def close_with_news() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: troubles.append(what))
        router = zmqpull.Router([endpoint], [])
        our_shipper(endpoint).ask(ALICE)
        assert select.select([router._pull.fileno()], [], [], DEADLINE_S)[0]
        await asyncio.sleep(0)  # in this turn the loop sees it, but calls us first
        router.close()
        await asyncio.sleep(0)

    asyncio.run(close_with_news())
    assert troubles == []


@pytest.mark.long
def test_collector_that_has_enough_answers_before_it_ends(
    tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """With nobody else to ask, the shipper would wait for ever."""
    place = InFile(tmp_path / "events")
    for _ in range(3):
        endpoint = free_endpoint()
        collector = pull(endpoint, *place.options, "-n", "3")
        shipper = ship("--ack", "-c", endpoint)
        result = shipper.finish(b"1\n2\n3\n")
        assert (result.status, result.processed, trouble(result)) == (0, 3, "")
        assert collector.finish().stderr == "zmqpull.py: 3 events written\n"
    assert place.messages() == ["1", "2", "3"] * 3


@pytest.mark.long
def test_shipper_that_is_killed_with_a_spool_loses_and_repeats_nothing(
    tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """Whoever adopts what it has left behind sends it as from the one who wrote it."""
    endpoint, spool = free_endpoint(), str(tmp_path / "spool")
    place = InSqlite(tmp_path / "events.db")
    options = ("--ack", "-c", endpoint, "--spool", spool)
    expected = texts(120_000, size=50)
    for start in (0, 40_000, 80_000):
        shipper = ship(*options)
        shipper.write(as_input(expected[start : start + 40_000]))
        wait_until_read(shipper)
        if start == 80_000:
            pull(endpoint, *place.options)
            place.wait_for(1)
        kill(shipper)
    shipper = ship(*options)
    place.wait_for_more(30_000, of=expected)
    kill(shipper)
    result = ship(*options).finish(as_input(["the last one"]))
    assert result.status == 0
    messages = place.messages()
    assert messages == [*expected, "the last one"]
    pids = [strict_json(event)["@pid"] for event in place.events()]
    assert len(dict.fromkeys(pids)) == 4  # those of who wrote them
    assert len(place.records()) == 4
    assert os.listdir(spool) == []


@pytest.mark.long
def test_both_are_killed_again_and_again(tmp_path: Path, pull: Ship, ship: Ship) -> None:
    endpoint, spool = free_endpoint(), str(tmp_path / "spool")
    place = InSqlite(tmp_path / "events.db")
    options = ("--ack", "-c", endpoint, "--spool", spool)
    expected = texts(200_000, size=50)
    shipper = ship(*options)
    shipper.write(as_input(expected))
    wait_until_read(shipper)
    collector = pull(endpoint, *place.options)
    for count in (5000, 15_000, 25_000):
        place.wait_for_more(count, of=expected)
        kill(shipper)
        kill(collector)
        collector = pull(endpoint, *place.options)
        shipper = ship(*options)
    assert shipper.finish().status == 0
    assert place.messages() == expected
    assert len(place.records()) == 1


@pytest.mark.long
@pytest.mark.parametrize("place", ["redis", "sqlite"], indirect=True)
def test_record_that_is_wiped_stops_and_loses_nothing(
    place: InRedis | InSqlite, hasty: str, pull: Ship, ship: Ship
) -> None:
    endpoint = free_endpoint()
    pull(endpoint, *place.options)
    shipper = ship("--ack", "-c", endpoint, program=hasty)
    expected = texts(200_000, size=50)
    for start in (0, 100_000):
        before = place.count()
        feeder = Feeder(shipper, as_input(expected[start : start + 100_000]), ends=False)
        place.wait_for(before + 10_000)
        assert place.wipe_records() == 1
        feeder.join()
    result = shipper.finish()
    assert list(dict.fromkeys(place.messages())) == expected
    assert (result.status, result.processed) == (0, len(expected))


def test_shipper_that_was_away_for_a_month_is_forgotten_and_goes_on(
    tmp_path: Path, our_shipper: Callable[[str], OurShipper], pull: Ship
) -> None:
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    pull(endpoint, *place.options)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 5, 5, b'{"message":"before"}')
    assert shipper.answer() == (ALICE, 5)
    with place.open() as db:
        db.execute("UPDATE shipper SET seen = datetime('now', '-31 days')")
    shipper.offer(BOB, 1, 1, b'{"message":"meanwhile"}')
    assert shipper.answer() == (BOB, 1)
    assert place.records() == {BOB: 1}
    shipper.offer(ALICE, 6, 6, b'{"message":"after"}')
    assert shipper.answer() == (ALICE, 6)
    assert place.messages() == ["before", "meanwhile", "after"]


def test_redis_forgets_a_shipper_a_month_after_it_was_there_last(
    tmp_path: Path, redis_url: str, our_shipper: Callable[[str], OurShipper], pull: Ship
) -> None:
    import redis

    endpoint, place = free_endpoint(), InRedis(redis_url, tmp_path.name)
    pull(endpoint, *place.options)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 5, 5, b'{"message":"before"}')
    assert shipper.answer() == (ALICE, 5)
    client = redis.Redis.from_url(redis_url)
    record = f"zmqpull:{tmp_path.name}:{ALICE.hex()}"
    month = 30 * 86400
    client.expire(record, 1000)
    shipper.offer(ALICE, 6, 5, b'{"message":"between"}')
    assert shipper.answer() == (ALICE, 6)
    assert month - 3600 < int(client.ttl(record)) <= month
    client.delete(record)  # as it will
    shipper.offer(ALICE, 7, 7, b'{"message":"after"}')
    assert shipper.answer() == (ALICE, 7)
    assert place.messages() == ["before", "between", "after"]


# ---- spools -----------------------------------------------------------------------------------


def leave_files_behind(directory: Path, count: int) -> list[str]:
    """As many shippers do, of which each was killed; returns the texts in them."""
    for number in range(count):
        file = zmqpush.SpoolFile.create(str(directory))
        file.append(zmqpush.Finished(b"%d" % number, 1, 1))
        file.let_go()
    return [f"{number}" for number in range(count)]


@pytest.mark.long
def test_files_that_wait_for_acknowledgement_are_not_all_open_at_once(
    tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """A process may have so many descriptors, and each file takes several."""
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    program = copy_with(tmp_path, WINDOW_CHUNKS=5, MOST_LEFT_BEHIND=5)
    expected = leave_files_behind(tmp_path / "spool", 50)
    options = ("--ack", "-c", endpoint, "--spool", str(tmp_path / "spool"))
    shipper = ship(*options, program=program, stdin=subprocess.DEVNULL)
    assert " messages wait in " in shipper.read_stderr_line()
    wait_until_asleep(shipper.pid)
    assert len(os.listdir(f"/proc/{shipper.pid}/fd")) < 100
    pull(endpoint, *place.options)
    result = shipper.finish()
    assert place.messages() == expected
    assert (result.status, result.processed) == (0, 50)
    assert len(place.records()) == 50
    assert os.listdir(tmp_path / "spool") == []


def write_noise(directory: Path) -> None:
    """Over all of its files."""
    for path in directory.iterdir():
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.write(random.Random(9).randbytes(size))


def test_books_are_right_when_a_file_is_damaged_while_its_chunks_are_in_the_window(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = zmqpush.parse_options(zmqpush.build_parser(""), ["--format", "raw"])
    form = zmqpush.EventFormat(options, 1)

    async def scenario() -> None:
        spool = zmqpush.Spool(str(tmp_path), 0, form, held=lambda: 0)
        for _ in range(100):  # more than SQLite's cache holds
            await spool.put(b"x" * 99_999 + b"\n")
        await spool.safe()
        assert (spool.waiting(), spool.size, spool.homeless()) == (100, 10_000_000, 0)
        write_noise(tmp_path)
        window = []
        getting = asyncio.create_task(spool.get())
        while not spool.homeless():  # it meets the damage when it wants more than is in memory
            if getting.done():
                window.append(getting.result())
                getting = asyncio.create_task(spool.get())
            await asyncio.sleep(0)
        assert capfd.readouterr().err.count(" is damaged (") == 1
        assert 0 < len(window) < 100
        assert (spool.waiting(), spool.homeless()) == (len(window), len(window))
        assert spool.size == len(window) * 100_000
        await spool.put(b"new\n")
        assert (spool.waiting(), spool.size) == (len(window) + 1, len(window) * 100_000 + 4)
        window.append(await asyncio.wait_for(getting, DEADLINE_S))
        for left, chunk in enumerate(window, 1 - len(window)):
            assert chunk
            spool.sent += 1
            spool.done(chunk, 0)
            await asyncio.sleep(0)  # then it is deleted
            assert (spool.waiting(), spool.uncertain()) == (-left, 0)
        assert (spool.size, spool.homeless()) == (0, 0)
        spool.close(delivered=True)

    asyncio.run(scenario())
    assert list(tmp_path.glob("*.spool")) == []


@pytest.mark.long
def test_what_only_memory_has_since_its_file_was_damaged_is_given_up_with_a_count(
    tmp_path: Path, our_collector: OurCollector, ship: Ship
) -> None:
    spool = tmp_path / "spool"
    shipper = ship("--ack", "-c", our_collector.endpoint, "--spool", str(spool))
    shipper.write(as_input(texts(100_000, size=99)))
    wait_until_read(shipper)
    write_noise(spool)
    stderr, acknowledged = shipper.process.stderr, 0
    assert stderr
    while not unread(stderr.fileno()):
        chunk = our_collector.receive_chunk()
        acknowledged += chunk.texts[0].count(b"\n") + 1
        our_collector.answer(chunk, chunk.number)
        wait_until_asleep(shipper.pid)
    assert " is damaged (" in shipper.read_stderr_line()
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert (result.status, result.processed) == (1, acknowledged)
    said = r"zmqpush\.py: gave up at most (\d+) messages: the file that had them is damaged\n"
    match = re.fullmatch(said, trouble(result))
    assert match, result.stderr
    assert 0 < int(match[1]) < 100_000 - acknowledged


# ---- from one collector to the next -----------------------------------------------------------


@pytest.mark.long
def test_stopped_collector_is_left_for_the_next_and_when_it_wakes_nothing_comes_twice(
    places: list[Place], pull: Ship, ship: Ship
) -> None:
    """With the real times: it is asked after 5 s, and left after 5 more."""
    endpoints = [free_endpoint(), free_endpoint()]
    shared = places[1:]
    first, second = (pull(endpoint, *options_of(shared)) for endpoint in endpoints)
    shipper = ship("--ack", "-c", endpoints[0], "-c", endpoints[1])
    expected = texts(50_000)
    shipper.write(as_input(expected[:1000]))
    for place in shared:
        place.wait_for(1000)
    stop(first)
    started_at = time.monotonic()
    shipper.write(as_input(expected[1000:40_000]))
    for place in shared:
        place.wait_for(40_000, deadline_s=45)
    assert time.monotonic() - started_at > 9.5  # it was given its time
    first.signal(signal.SIGCONT)
    wait_until_asleep(first.pid)
    result = shipper.finish(as_input(expected[40_000:]))
    for place in shared:
        assert place.messages() == expected
    assert (result.status, result.processed, trouble(result)) == (0, 50_000, "")
    # A reply of Redis may have been missed while it was stopped: that is said, and asked for again.
    assert end(first).endswith("zmqpull.py: 1000 events written\n")
    assert end(second) == "zmqpull.py: 49000 events written\n"


@pytest.mark.long
def test_collectors_that_share_nothing_have_everything_between_them(
    hasty: str, tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """Each has what it has once, and in order; some of it the other one may have, too."""
    ends = [(free_endpoint(), InSqlite(tmp_path / name)) for name in ("one.db", "two.db")]
    (one, first), (two, second) = ends
    collectors = [pull(endpoint, *place.options) for endpoint, place in ends]
    shipper = ship("--ack", "-c", one, "-c", two, program=hasty)
    expected = texts(60_000)
    for start in (0, 20_000):
        shipper.write(as_input(expected[start : start + 20_000]))
        wait_until(lambda: first.count() + second.count() >= start + 20_000, "there")  # noqa: B023
        stop(collectors[0])
    collectors[0].signal(signal.SIGCONT)
    wait_until_asleep(collectors[0].pid)
    kill(collectors[1])
    result = shipper.finish(as_input(expected[40_000:]))
    assert (result.status, result.processed) == (0, 60_000)
    arrived = [place.messages() for place in (first, second)]
    for messages in arrived:
        assert messages == sorted(set(messages))
    assert sorted({*arrived[0], *arrived[1]}) == expected
    assert arrived[1]


def test_end_of_a_connection_that_was_left_before_is_no_news() -> None:
    """What the monitor says comes later than we act."""

    async def hear() -> None:
        link = zmqpush.AckLink(0, 0, ["tcp://127.0.0.1:9"])
        link.event_received(types.SimpleNamespace(event=zmq.EVENT_DISCONNECTED, value=99))
        assert link.connections == {}

    asyncio.run(hear())


@pytest.mark.long
def test_dead_collector_is_left_for_the_next(
    hasty: str, tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    pull(endpoint, *place.options)
    result = ship("--ack", "-c", free_endpoint(), "-c", endpoint, program=hasty).finish(b"x\n")
    assert place.messages() == ["x"]
    assert result.status == 0


class Relay:
    """A TCP proxy; of a direction that is swallowed it reads everything, and passes nothing on."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint[len("tcp://") :].partition(":")
        self._address = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "tcp://{}:{}".format(*self._listener.getsockname())
        self.swallowed: set[str] = set()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._address)
            except OSError:  # closed, or nobody is there
                return
            self._sockets += [client, server]
            for way, source, sink in (("chunks", client, server), ("answers", server, client)):
                thread = threading.Thread(
                    target=self._pass_on, args=(way, source, sink), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if way not in self.swallowed:
                    sink.sendall(data)

    def close(self) -> None:
        for open_socket in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()
        for thread in self._threads:
            thread.join()


@pytest.mark.long
@pytest.mark.parametrize("swallowed", [{"chunks"}, {"answers"}, {"chunks", "answers"}])
def test_silence_on_a_connection_that_stands_is_noticed(
    swallowed: set[str], hasty: str, tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """No matter in which direction nothing comes through; what came is known not to be new."""
    endpoints = [free_endpoint(), free_endpoint()]
    place = InSqlite(tmp_path / "events.db")
    for endpoint in endpoints:
        pull(endpoint, *place.options)
    # the first collector listens before the relay is asked to connect to it
    wait_until(lambda: is_listening(endpoints[0]), "the collector listens")
    with contextlib.closing(Relay(endpoints[0])) as relay:
        shipper = ship("--ack", "-c", relay.endpoint, "-c", endpoints[1], program=hasty)
        expected = texts(20_000)
        shipper.write(as_input(expected[:1000]))
        place.wait_for(1000)
        wait_until_asleep(shipper.pid)
        relay.swallowed = swallowed
        result = shipper.finish(as_input(expected[1000:]))
    assert place.messages() == expected
    assert (result.status, result.processed) == (0, 20_000)


def is_listening(endpoint: str) -> bool:
    host, _, port = endpoint[len("tcp://") :].partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


# ---- peers that are something else ------------------------------------------------------------


class TalkingServer:
    """Says the same to everybody, one after the other, and hears them out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "tcp://{}:{}".format(*self._listener.getsockname())
        self.requests = 0
        self._client = self._listener
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                self._client, _ = self._listener.accept()
            except OSError:
                return
            self.requests += 1
            with self._client, contextlib.suppress(OSError):
                self._client.sendall(self._data)
                self._hear()

    def _hear(self) -> None:
        while self._client.recv(65_536):
            pass

    def close(self) -> None:
        for open_socket in (self._listener, self._client):
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


class WebServer(TalkingServer):
    """Answers every request, and what is none, with an error."""

    def __init__(self) -> None:
        super().__init__(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    def _hear(self) -> None:
        """It hangs up at once."""


@pytest.fixture
def peers() -> Iterator[Callable[[str], zmq.Socket[bytes]]]:
    """Binds sockets of a kind, such as `PULL`."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def bind(kind: str) -> zmq.Socket[bytes]:
        peer = context.socket(getattr(zmq, kind))
        peer.bind("tcp://127.0.0.1:*")
        return peer

    yield bind
    context.destroy(linger=0)


@pytest.mark.long
def test_peers_that_are_no_collectors_get_nothing_and_the_line_goes_on(
    hasty: str,
    peers: Callable[[str], zmq.Socket[bytes]],
    tmp_path: Path,
    pull: Ship,
    ship: Ship,
) -> None:
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    pull(endpoint, *place.options)
    kinds = ("PULL", "PUSH", "SUB", "REP", "DEALER", "ROUTER")
    others = {kind: peers(kind) for kind in kinds}
    with contextlib.closing(WebServer()) as web:
        wrong = [other.get_string(zmq.LAST_ENDPOINT) for other in others.values()]
        options = [word for each in (*wrong, web.endpoint, endpoint) for word in ("-c", each)]
        result = ship("--ack", *options, program=hasty).finish(b"x\n")
        assert web.requests
    assert place.messages() == ["x"]
    assert (result.status, result.processed) == (0, 1)
    for kind in ("DEALER", "ROUTER"):  # which may be collectors
        *_, header = others[kind].recv_multipart(zmq.DONTWAIT)
        assert HEADER.unpack(header)[:2] == (1, QUESTION)
    for kind in ("PULL", "SUB", "REP"):
        with pytest.raises(zmq.Again):
            others[kind].recv_multipart(zmq.DONTWAIT)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["PULL", "HTTP"])
def test_what_waits_for_a_wrong_peer_goes_to_the_collector_that_takes_its_place(
    kind: str,
    peers: Callable[[str], zmq.Socket[bytes]],
    tmp_path: Path,
    pull: Ship,
    ship: Ship,
) -> None:
    place = InFile(tmp_path / "events")
    if kind == "HTTP":
        web = WebServer()
        endpoint = web.endpoint
    else:
        peer = peers(kind)
        endpoint = peer.get_string(zmq.LAST_ENDPOINT)
    shipper = ship("--ack", "-c", endpoint)
    shipper.write(b"x\n")
    if kind == "HTTP":
        wait_until(lambda: web.requests, "it was asked for")
        web.close()
    else:
        peer.close(0)
        wait_until(lambda: not is_listening(endpoint), "the peer is gone")
    pull(endpoint, *place.options)
    place.wait_for(1)
    result = shipper.finish()
    assert place.messages() == ["x"]
    assert (result.status, result.processed, trouble(result)) == (0, 1, "")


UNKNOWN = "tcp://" + "a." * 150 + "invalid:2120"  # no name is so long: no server has to be asked


@pytest.mark.long
def test_name_that_does_not_resolve_is_looked_up_by_one_thread_and_said_once(
    hasty: str, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", UNKNOWN, "--linger", "0", program=hasty)
    warning = shipper.read_stderr_line()
    assert warning.startswith(f"zmqpush.py: {UNKNOWN}: ")
    before = proc_status(shipper.pid, "Threads")
    shipper.write(b"x\n")
    time.sleep(6 * PATIENCE_S)  # in which it tries three times
    assert proc_status(shipper.pid, "Threads") == before
    result = shipper.finish()
    assert (result.status, result.processed) == (1, 0)
    assert trouble(result) == "zmqpush.py: gave up 1 messages: no collector has acknowledged them\n"


@pytest.mark.long
def test_name_that_does_not_resolve_is_left_for_the_next(
    hasty: str, tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    pull(endpoint, *place.options)
    result = ship("--ack", "-c", UNKNOWN, "-c", endpoint, program=hasty).finish(b"x\n")
    assert place.messages() == ["x"]
    assert result.status == 0


# ---- rsyslog's dialogue -----------------------------------------------------------------------


def test_omprog_says_ok_when_it_is_acknowledged(
    tmp_path: Path, our_collector: OurCollector, ship: Ship
) -> None:
    program = copy_with(tmp_path, STILL_WORKING_S=0.2)
    shipper = ship("--ack", "--omprog", "-c", our_collector.endpoint, program=program)
    stdout = shipper.process.stdout
    assert stdout
    assert stdout.read(3) == b"OK\n"
    shipper.write(b"one\n")
    chunk = our_collector.receive_chunk()
    assert stdout.read(2) == b".."  # which say that it takes time
    our_collector.answer(chunk, 0)
    assert stdout.read(2) == b".."
    our_collector.answer(chunk, 1)
    assert stdout.readline().lstrip(b".") == b"OK\n"
    shipper.write(b"two\nlines\n")
    chunk = our_collector.receive_chunk()
    assert strict_json(chunk.texts[0])["message"] == "two\nlines"
    our_collector.answer(chunk, 2)
    assert stdout.readline().lstrip(b".") == b"OK\n"
    assert shipper.finish().status == 0


def test_transaction_is_committed_when_all_of_it_is_acknowledged(
    tmp_path: Path, our_collector: OurCollector, ship: Ship
) -> None:
    program = copy_with(tmp_path, STILL_WORKING_S=0.2)
    options = ("--ack", "--omprog", "--omprog-transactions")
    shipper = ship(*options, "-c", our_collector.endpoint, program=program)
    stdout = shipper.process.stdout
    assert stdout
    assert stdout.readline() == b"OK\n"
    shipper.write(b"BEGIN TRANSACTION\n")
    assert stdout.readline().lstrip(b".") == b"OK\n"
    for text in (b"one\n", b"two\n"):
        shipper.write(text)
        chunk = our_collector.receive_chunk()
        assert stdout.readline().lstrip(b".") == b"DEFER_COMMIT\n"
    shipper.write(b"COMMIT TRANSACTION\n")
    our_collector.answer(chunk, 1)
    assert stdout.read(2) == b".."
    our_collector.answer(chunk, 2)
    assert stdout.readline().lstrip(b".") == b"OK\n"
    assert shipper.finish().status == 0


def test_omprog_with_a_spool_says_ok_when_it_is_journaled(
    tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """Nobody has to be there for that; and who comes gets it."""
    endpoint, spool = free_endpoint(), str(tmp_path / "spool")
    options = ("--ack", "-c", endpoint, "--spool", spool)
    shipper = ship(*options, "--omprog")
    stdout = shipper.process.stdout
    assert stdout
    assert stdout.readline() == b"OK\n"
    for text in (b"one\n", b"two\n"):
        shipper.write(text)
        assert stdout.readline() == b"OK\n"
    kill(shipper)
    place = InSqlite(tmp_path / "events.db")
    pull(endpoint, *place.options)
    assert ship(*options).finish(b"").status == 0
    assert place.messages() == ["one", "two"]


# ---- idle, and held back ----------------------------------------------------------------------


@pytest.mark.long
def test_idle_and_connected_nothing_wakes_either_end(
    hasty: str, places: list[Place], pull: Ship, ship: Ship
) -> None:
    """When nothing waits for an answer there is no timer, either."""
    endpoint = free_endpoint()
    collector = pull(endpoint, *options_of(places))
    shipper = ship("--ack", "-c", endpoint, program=hasty)
    for serial in (1, 2):
        shipper.write(b"x\n")
        for place in places:
            place.wait_for(serial)
        for process in (shipper, collector):
            wait_until_asleep(process.pid)
            assert wakeups(process.pid, 3 * PATIENCE_S) == 0
    assert shipper.finish().status == 0


@pytest.mark.long
def test_file_that_takes_no_more_holds_the_acknowledgement_back(
    tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """As a full disk does; here it is a limit (setrlimit(2)) that is lifted later."""
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    limit = (100_000, resource.RLIM_INFINITY)
    collector = pull(
        endpoint,
        *place.options,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    shipper = ship("--ack", "-c", endpoint)
    expected = texts(10_000)
    shipper.write(as_input(expected))
    shipper.end_input()
    said = collector.read_stderr_line()
    assert said.endswith(f"{place.options[1]}: File too large; the senders have to wait\n")
    assert "; 10000 messages wait " in shipper.read_stderr_line()
    assert shipper.process.poll() is None
    resource.prlimit(collector.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    result = shipper.finish()
    assert place.messages() == expected
    assert (result.status, result.processed, trouble(result)) == (0, 10_000, "")
    assert "going on" in end(collector)


@pytest.mark.long
def test_locked_database_holds_the_acknowledgement_back_and_is_not_given_everything_anew(
    hasty: str, tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """The shipper tries again and again, as it has nobody else: that costs the collector little."""
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    collector = pull(endpoint, *place.options)
    wait_until(lambda: place.ask("SELECT 1 FROM sqlite_master WHERE name = 'shipper'"), "made")
    expected = texts(60_000, size=50)
    with place.open() as db:
        db.execute("PRAGMA busy_timeout = 10000")
        db.execute("BEGIN EXCLUSIVE")
        shipper = ship("--ack", "-c", endpoint, program=hasty)
        Feeder(shipper, as_input(expected))
        said = collector.read_stderr_line()
        assert said.endswith("database is locked; the senders have to wait\n")
        time.sleep(2 * PATIENCE_S)
        before = memory(collector.pid)
        time.sleep(6 * PATIENCE_S)
        assert memory(collector.pid) - before < 1_000_000
        assert shipper.process.poll() is None
        db.execute("ROLLBACK")
    result = shipper.finish()
    assert place.messages() == expected
    assert (result.status, result.processed) == (0, len(expected))
    assert "going on" in end(collector)


@pytest.mark.long
def test_database_in_use_when_a_collector_begins_is_waited_for(
    tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    """Two may begin at once, with a new one."""
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    with place.open() as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("CREATE TABLE other (name)")
        collector = pull(endpoint, *place.options)
        path = place.options[1]
        wait_until(lambda: has_open(collector.pid, path), "the collector has opened it")
        before = switches(collector.pid)
        wait_until(lambda: switches(collector.pid) > before + 5, "it has tried several times")
        db.execute("COMMIT")
    assert ship("--ack", "-c", endpoint).finish(b"x\n").status == 0
    assert place.messages() == ["x"]


def has_open(pid: int, path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return any(os.readlink(link) == path for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


# ---- garbage ----------------------------------------------------------------------------------


ACK_OR_PLAIN = pytest.mark.parametrize("ack", [["--ack"], []], ids=["ROUTER", "PULL"])


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def address_of(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint[len("tcp://") :].partition(":")
    return host, int(port)


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
        said = end(collector).splitlines()
        assert said[0].startswith("zmqpull.py: a peer does not speak the protocol of --ack: ")
        assert said[1:] == ["zmqpull.py: 50000 events written"]
    else:  # there, whatever comes is an event
        counts = collections.Counter(strict_json(event).get("message") for event in place.events())
        assert all(counts[text] == 1 for text in expected)


def arrived(place: Place) -> set[bytes]:
    """The beginnings of the events that have come."""
    return {event[: event.find(b",") + 1] for event in place.events()}


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
    pull: Ship,
    ship: Ship,
) -> None:
    """It remembers them on disk, if at all. A good one gets through meanwhile."""
    endpoint = free_endpoint()
    collector = pull(endpoint, *place.options)
    crowd = context.socket(zmq.DEALER)
    crowd.connect(endpoint)
    shipper = ship("--ack", "-c", endpoint)
    expected = texts(50_000)
    sizes = []
    for serial in range(100_000):
        who = serial.to_bytes(16, "big")
        crowd.send_multipart([HEADER.pack(1, ONE, who, 1, 1), b'{"message":"crowd"}'])
        if serial % 500 == 499:  # its queue is not endless, and neither is ours
            while True:
                assert crowd.poll(int(DEADLINE_S * 1000))
                if ANSWER.unpack(crowd.recv())[2:] == (who, 1):
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
            collector.send(chunk, ANSWER.pack(1, SAFE, rng.randbytes(16), 2**64 - 1))
        shipper.write(b"2\n")
        said = [shipper.read_stderr_line()]
        while " 2 handed over" not in said[-1]:  # then it has read all of that
            while collector.socket.poll(10):
                collector.answer(collector.receive(), 2)
            shipper.signal(signal.SIGUSR1)
            said.append(shipper.read_stderr_line())
        assert memory(shipper.pid) - before < 20_000_000
        result = shipper.finish()
    assert (result.status, result.processed, trouble(result)) == (0, 2, "")
    assert "does not speak the protocol of --ack" in said[0]
    assert all(" handed over" in line for line in said[1:])


@pytest.mark.long
@pytest.mark.parametrize("size", IMPOSSIBLE_SIZES)
def test_frame_of_an_impossible_size_does_no_harm_to_a_shipper(
    size: int, hasty: str, tmp_path: Path, pull: Ship, ship: Ship
) -> None:
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    pull(endpoint, *place.options)
    with contextlib.closing(TalkingServer(greeting(b"ROUTER") + frame_of(size))) as bad:
        shipper = ship("--ack", "-c", bad.endpoint, "-c", endpoint, program=hasty)
        result = shipper.finish(b"x\n")
        assert bad.requests
    assert place.messages() == ["x"]
    assert (result.status, result.processed) == (0, 1)


@pytest.mark.long
def test_collector_that_is_stopped_while_its_sink_fails_gives_nothing_up(
    tmp_path: Path, our_shipper: Callable[[str], OurShipper], pull: Ship
) -> None:
    """What it has in hand its shipper has, too."""
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    collector = pull(endpoint, *place.options)
    wait_until(lambda: place.ask("SELECT 1 FROM sqlite_master WHERE name = 'shipper'"), "made")
    with place.open() as db:
        db.execute("PRAGMA busy_timeout = 10000")
        db.execute("BEGIN EXCLUSIVE")
        our_shipper(endpoint).offer(ALICE, 1, 1, b'{"message":"x"}')
        assert "the senders have to wait" in collector.read_stderr_line()
        assert end(collector) == "zmqpull.py: 0 events written\n"
        db.execute("ROLLBACK")
    pull(endpoint, *place.options)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, b'{"message":"x"}')
    assert shipper.answer() == (ALICE, 1)
    assert place.messages() == ["x"]


# ---- the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "option", "why"),
    [
        ("zmqpush.py", "--bind", "--ack connects: it cannot be used with --bind"),
        ("zmqpull.py", "--connect", "--ack binds: it cannot be used with --connect"),
    ],
)
def test_each_end_has_its_way_to_connect(program: str, option: str, why: str, ship: Ship) -> None:
    result = ship("--ack", option, "tcp://127.0.0.1:9", program=program).finish(b"")
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == f"{program}: {why} (--help tells more)\n"

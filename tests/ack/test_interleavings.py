"""The shipper's window against the collector's books, through all that can happen between them.

Without sockets: a state machine kills, cuts and delays whatever it likes.
"""

from __future__ import annotations

import collections
import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.ack.helpers import chunk_of
from tests.support.ack import GOODBYE, Books, header
from tests.support.collector import strict_json
from tests.support.properties import EXAMPLES
from zmqlines.ack import Answer, Offer, Window
from zmqlines.finished import Finished


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
        self.held: list[Finished] = []
        self.deleted: list[Finished] = []
        self.count = 0

    def write(self, events: list[bytes]) -> Finished:
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
        shared, own = Books(), Books(outlives_collector=False)
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
        self.window = Window()
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
            answer = Answer.read([answers.popleft()])
            if self.window.safe(answer.shipper, answer.number):
                self.journals[answer.shipper].delete(answer.number)

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

    @precondition(lambda self: self.connected and self.shippers < 4)
    @rule()
    def end_shipper(self) -> None:
        """It says goodbye for what it began; what others have left may be elsewhere, too."""
        if not any(journal.held for journal in self.journals.values()):
            if self.own.shipper in self.window.finished():
                goodbye = header(GOODBYE, self.own.shipper, self.own.count, 0)
                self.connections[-1].offers.append([goodbye])
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
        offers: list[Offer] = []
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
            offers.append(Offer.read([b"%d" % index, *frames]))
        self.keep(collector, offers)
        if dies:
            self.kill_collector(collector)

    def keep(self, collector: int, offers: list[Offer]) -> None:
        records = self.stores[collector].keep(offers)
        for peer, shipper in {(offer.peer, offer.shipper): None for offer in offers}:
            answer = Answer(shipper, records[shipper])
            self.connections[int(peer)].answers.append(answer.frame())
        for bye in offers:
            if bye.last and records[bye.shipper] == bye.last:
                self.stores[collector].forget([bye.shipper])

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
                self.keep(collector, [Offer.read([b"%d" % index, *frames])])


TestAnyInterleavingLosesNothingAndRepeatsNothing = pytest.mark.long(Delivery.TestCase)
TestAnyInterleavingLosesNothingAndRepeatsNothing.settings = settings(
    max_examples=min(EXAMPLES, 200), stateful_step_count=50, deadline=None
)

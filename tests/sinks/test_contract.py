"""What every sink owes to acknowledged delivery: all are held to the same tests."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ack import ALICE, BOB, Books, OurShippers
from tests.support.aliases import Ship
from tests.support.ending import end, stop
from tests.support.net import free_endpoint
from tests.support.places import InFile, InRedis, InSqlite, Place
from zmqlines.ack import Offer
from zmqlines.sinks.contract import Sink
from zmqlines.sinks.file import Descriptor
from zmqlines.sinks.redis_list import RedisList
from zmqlines.sinks.sqlite import Sqlite

_serials = iter(range(10**9))
numbers = st.integers(1, 8) | st.integers(2**53 - 3, 2**53 - 1)


@st.composite
def any_offer(draw: st.DrawFn) -> Offer:
    shipper = draw(st.sampled_from([ALICE, BOB]))
    if draw(st.integers(0, 5)) == 5:
        return Offer(b"peer", shipper, 0, 0, [])
    first, number = sorted([draw(numbers), draw(numbers)])
    events = [b'{"n":%d}' % next(_serials) for _ in range(draw(st.integers(0, 2)))]
    return Offer(b"peer", shipper, number, first, events)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["file", "redis", "sqlite"])
@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(any_offer(), max_size=5)))
def test_every_sink_keeps_its_books_by_the_same_rule(
    kind: str,
    batches: list[list[Offer]],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    """Those of Redis are kept by a script in Lua."""
    folder = tmp_path_factory.mktemp("books")
    reference = Books()

    async def keep_all(sink: Sink) -> None:
        for offers in batches:
            before = len(reference.events)
            records = reference.keep(offers)
            assert await sink.keep(offers) == records
            new = [event for offer in offers if offer.is_new for event in offer.events]
            assert new == reference.events[before:]

    async def keep_all_in_redis() -> None:
        await keep_all(RedisList(url, str(folder), 0))  # which is of this event loop

    place: Place
    if kind == "file":
        place = InFile(folder / "events")
        with open(folder / "events", "ab") as file:
            asyncio.run(keep_all(Descriptor(file.fileno(), "a file")))
    elif kind == "sqlite":
        place = InSqlite(folder / "events.db")
        sink = Sqlite(place.options[1])
        with contextlib.closing(sink._db):
            asyncio.run(keep_all(sink))
    else:
        url = request.getfixturevalue("redis_url")
        place = InRedis(url, str(folder))
        asyncio.run(keep_all_in_redis())
    assert place.events() == reference.events


def test_collector_answers_as_written_down_what_its_sink_has(
    place: Place, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    """Chunks are taken in order; repeated ones, and those after a gap, only answered."""
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *place.options)
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
    *told, written = end(collector).splitlines()
    assert written == "zmqpull.py: 6 events written"
    gaps = [re.search(r": (\d+ chunks of shipper \w+) never came here", line) for line in told]
    expected = [
        f"996 chunks of shipper {ALICE.hex()[:8]}",
        f"5 chunks of shipper {b'a new'.hex()[:8]}",
        f"{2**53 - 2 - 1000} chunks of shipper {ALICE.hex()[:8]}",
    ]
    if isinstance(place, InFile):  # its records are in memory: it cannot know of what is new
        del expected[1]
    assert [gap and gap[1] for gap in gaps] == expected


@pytest.mark.long
def test_collector_keeps_what_comes_at_once_and_in_any_mixture(
    place: Place, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *place.options)
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

"""The collector's end of the protocol, `zmqpull.py --ack`: what it answers, also when it ends."""

from __future__ import annotations

import asyncio
import re
import select
from pathlib import Path

import pytest

from tests.ack.helpers import Feeder, as_input, texts, trouble
from tests.support.ack import ALICE, BOB, OurShippers
from tests.support.aliases import Ship
from tests.support.ending import end
from tests.support.net import free_endpoint
from tests.support.places import InFile, InSqlite
from tests.support.waiting import DEADLINE_S
from zmqlines.router import Router


def test_question_is_answered_by_what_was_kept_before_it(
    our_shipper: OurShippers, pull_ack: Ship, tmp_path: Path
) -> None:
    endpoint = free_endpoint()
    pull_ack(endpoint, *InSqlite(tmp_path / "events.db").options)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, b"{}")
    shipper.offer(ALICE, 2, 1, b"{}")
    shipper.ask(ALICE)
    shipper.answers((ALICE, 2))


def test_what_comes_while_a_collector_ends_is_no_trouble(
    our_shipper: OurShippers,
) -> None:
    """In the turn of the event loop in which it closes its socket, that may have news."""
    endpoint, troubles = free_endpoint(), []

    async def close_with_news() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: troubles.append(what))
        router = Router([endpoint], [])
        our_shipper(endpoint).ask(ALICE)
        assert select.select([router._pull.fileno()], [], [], DEADLINE_S)[0]
        await asyncio.sleep(0)  # in this turn the loop sees it, but calls us first
        router.close()
        await asyncio.sleep(0)

    asyncio.run(close_with_news())
    assert troubles == []


@pytest.mark.long
def test_collector_that_has_enough_answers_before_it_ends(
    tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """With nobody else to ask, the shipper would wait for ever."""
    place = InFile(tmp_path / "events")
    for _ in range(3):
        endpoint = free_endpoint()
        collector = pull_ack(endpoint, *place.options, "-n", "3")
        shipper = ship("--ack", "-c", endpoint)
        result = shipper.finish(b"1\n2\n3\n")
        assert (result.status, result.processed, trouble(result)) == (0, 3, "")
        assert collector.finish().stderr == "zmqpull.py: 3 events written\n"
    assert place.messages() == ["1", "2", "3"] * 3


#: An answer of the last moment may come when the next collector has been offered a chunk before.
GAP = r"zmqpull\.py: .* chunks of shipper .* never came here, .*\n"


@pytest.mark.long
def test_collector_that_ends_in_an_orderly_manner_repeats_nothing_in_a_file(
    tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """It answers for what it has written, and leaves the rest to the shipper, at once."""
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    collector = pull_ack(endpoint, *place.options)
    shipper = ship("--ack", "-c", endpoint)
    expected = texts(400_000, size=50)
    Feeder(shipper, as_input(expected))
    for count in (10_000, 20_000, 30_000):
        place.wait_for_more(count, of=expected)
        assert re.fullmatch(rf"({GAP})?zmqpull\.py: \d+ events written\n", end(collector))
        collector = pull_ack(endpoint, *place.options)
    result = shipper.finish()
    assert place.messages() == expected
    assert (result.status, result.processed) == (0, len(expected))


@pytest.mark.long
def test_collector_that_is_stopped_while_its_sink_fails_gives_nothing_up(
    tmp_path: Path, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    """What it has in hand its shipper has, too."""
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    collector = pull_ack(endpoint, *place.options)
    place.wait_until_made()
    with place.locked():
        our_shipper(endpoint).offer(ALICE, 1, 1, b'{"message":"x"}')
        assert "the senders have to wait" in collector.read_stderr_line()
        assert end(collector) == "zmqpull.py: 0 events written\n"
    pull_ack(endpoint, *place.options)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, b'{"message":"x"}')
    assert shipper.answer() == (ALICE, 1)
    assert place.messages() == ["x"]


def test_shipper_that_was_away_for_a_month_is_forgotten_and_goes_on(
    tmp_path: Path, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    pull_ack(endpoint, *place.options)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 5, 5, b'{"message":"before"}')
    assert shipper.answer() == (ALICE, 5)
    with place.open() as db:
        db.execute("UPDATE shipper SET seen = seen - 31 * 86400")
    shipper.offer(BOB, 1, 1, b'{"message":"meanwhile"}')
    assert shipper.answer() == (BOB, 1)
    assert place.records() == {BOB: 1}
    shipper.offer(ALICE, 6, 6, b'{"message":"after"}')
    assert shipper.answer() == (ALICE, 6)
    assert place.messages() == ["before", "meanwhile", "after"]


def test_a_clock_that_jumps_a_month_forgets_no_shipper(
    tmp_path: Path, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    """A jump counts as a day at most; so does one back, and the way there again."""
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    pull_ack(endpoint, *place.options)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, b'{"message":"once"}')
    assert shipper.answer() == (ALICE, 1)
    for number, days in enumerate((31, -31, 31, -310), 1):
        with place.open() as db:  # seen from before the jump, that is what the clock did
            db.execute("UPDATE clock SET at = at - ? * 86400", (days,))
        shipper.offer(BOB, number, 1, b'{"message":"meanwhile"}')
        assert shipper.answer() == (BOB, number)
    shipper.offer(ALICE, 1, 1, b'{"message":"once"}')
    assert shipper.answer() == (ALICE, 1)
    assert place.messages().count("once") == 1

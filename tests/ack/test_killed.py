"""Both ends are killed, and come back: nothing is lost, or comes twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.ack.helpers import Feeder, as_input, texts
from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.ending import kill
from tests.support.net import free_endpoint
from tests.support.places import InFile, InRedis, InSqlite, Place
from tests.support.programs import wait_until_read


@pytest.mark.long
def test_collector_that_is_killed_again_and_again_loses_nothing(
    place: Place, pull_ack: Ship, ship: Ship
) -> None:
    """Nor does anything come twice, but into a file: its record is in memory."""
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *place.options)
    shipper = ship("--ack", "-c", endpoint)
    expected = texts(100_000, size=50)
    Feeder(shipper, as_input(expected))
    for count in (10_000, 20_000, 30_000):
        place.wait_for_more(count, of=expected)
        kill(collector)
        collector = pull_ack(endpoint, *place.options)
    result = shipper.finish()
    events = place.events()
    if isinstance(place, InFile):
        events = [event for event in dict.fromkeys(events) if event.endswith(b"}")]  # whole ones
    assert [strict_json(event)["message"] for event in events] == expected
    assert (result.status, result.processed) == (0, len(expected))


@pytest.mark.long
def test_shipper_that_is_killed_with_a_spool_loses_and_repeats_nothing(
    tmp_path: Path, pull_ack: Ship, ship: Ship
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
            pull_ack(endpoint, *place.options)
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
    assert len(place.records()) == 3  # of those that were killed; the last one said goodbye
    assert os.listdir(spool) == []


@pytest.mark.long
def test_both_are_killed_again_and_again(tmp_path: Path, pull_ack: Ship, ship: Ship) -> None:
    endpoint, spool = free_endpoint(), str(tmp_path / "spool")
    place = InSqlite(tmp_path / "events.db")
    options = ("--ack", "-c", endpoint, "--spool", spool)
    expected = texts(100_000, size=50)
    shipper = ship(*options)
    shipper.write(as_input(expected))
    wait_until_read(shipper)
    collector = pull_ack(endpoint, *place.options)
    for count in (5000, 15_000, 25_000):
        place.wait_for_more(count, of=expected)
        kill(shipper)
        kill(collector)
        collector = pull_ack(endpoint, *place.options)
        shipper = ship(*options)
    assert shipper.finish().status == 0
    assert place.messages() == expected
    assert len(place.records()) == 1


@pytest.mark.long
@pytest.mark.parametrize("place", ["redis", "sqlite"], indirect=True)
def test_record_that_is_wiped_stops_and_loses_nothing(
    place: InRedis | InSqlite, hasty: str, pull_ack: Ship, ship: Ship
) -> None:
    endpoint = free_endpoint()
    pull_ack(endpoint, *place.options)
    shipper = ship("--ack", "-c", endpoint, program=hasty)
    expected = texts(100_000, size=50)
    for start in (0, 50_000):
        before = place.count()
        feeder = Feeder(shipper, as_input(expected[start : start + 50_000]), ends=False)
        place.wait_for(before + 10_000)
        assert place.wipe_records() == 1
        feeder.join()
    result = shipper.finish()
    assert list(dict.fromkeys(place.messages())) == expected
    assert (result.status, result.processed) == (0, len(expected))

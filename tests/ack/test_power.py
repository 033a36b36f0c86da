"""A loss of power of the collector's machine at any answer loses nothing that it answered for."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.ack import ALICE, OurShipper
from tests.support.aliases import Ship
from tests.support.net import free_endpoint
from tests.support.places import InFile, InSqlite, Place
from tests.support.power import HOWS, answers, recorded, wait_until_whole

pytestmark = pytest.mark.long

COUNT = 60
CUTS = 8


def event(number: int) -> bytes:
    """Enough for SQLite to tidy up more than once."""
    return b'{"message":"%06d","pad":"%b"}' % (number, b"x" * (number % 7 * 20_000))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("make", [InFile, InSqlite])
def test_a_loss_of_power_at_any_answer_loses_nothing(
    make: Callable[[Path], Place],
    how: str,
    pull_ack: Ship,
    our_shipper: Callable[[str], OurShipper],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    python, log = recorded(tmp_path)
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *make(folder / "events").options, executable=python)
    shipper = our_shipper(endpoint)
    for number in range(1, COUNT + 1):
        shipper.offer(ALICE, number, 1, event(number))
        if number % 3 == 0:  # several may share a sync
            shipper.answers((ALICE, number))
    collector.stop()
    wait_until_whole(log, collector.pid)
    chance = random.Random(how)
    cuts = sorted(chance.sample(range(1, COUNT // 3), CUTS))
    safe = 0
    for kind, said, disk in answers(log, folder):
        answered = answered_in(said) if kind == "socket" else 0
        if answered <= safe:
            continue
        safe = answered
        if cuts and safe >= 3 * cuts[0]:
            cuts.pop(0)
            rebuilt = tmp_path / f"rebuilt-{safe}"
            disk.rebuild(rebuilt, how, chance)
            place = make(rebuilt / "events")
            found = place.events()
            assert found[:safe] == [event(number) for number in range(1, safe + 1)]
            if isinstance(place, InSqlite):  # what is there and what is known to be there agree
                assert place.records()[ALICE] == len(found)
                assert place.ask("PRAGMA integrity_check") == [("ok",)]
    assert safe == COUNT
    assert not cuts


def answered_in(said: bytes) -> int:
    """Up to which number an answer in these bytes says that Alice's are safe; 0 without one."""
    at = said.rfind(ALICE)
    return int.from_bytes(said[at + len(ALICE) :][:8], "big") if at >= 4 else 0

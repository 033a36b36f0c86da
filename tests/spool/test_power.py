"""A loss of power at any OK loses nothing that was answered with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.omprog.helpers import COMMIT, Dialogue
from tests.spool.helpers import start_draining
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.power import HOWS, answers, recorded, wait_until_whole

pytestmark = pytest.mark.long

COUNT = 60
CUTS = 4  # of each kind


def messages() -> list[bytes]:
    """Enough for SQLite to tidy up more than once, which it does every 2 MB."""
    return [b"%06d" % number + b"x" * (number % 7 * 20_000) for number in range(COUNT)]


def one_by_one(dialogue: Dialogue) -> list[int]:
    """How many messages are answered for at each OK; the first one says that it is ready."""
    assert dialogue.ask_all(messages()) == {"OK"}
    return list(range(COUNT + 1))


def in_transactions(dialogue: Dialogue) -> list[int]:
    answered = [0]
    for start in range(0, COUNT, 7):
        dialogue.begin(messages()[start : start + 7])
        assert dialogue.ask(COMMIT) == "OK"
        answered += [start, min(start + 7, COUNT)]
    return answered


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("is_there", [False, True], ids=["no collector", "a collector"])
@pytest.mark.parametrize("talk", [one_by_one, in_transactions])
def test_a_loss_of_power_at_any_ok_loses_nothing(
    talk: Callable[[Dialogue], list[int]],
    is_there: bool,
    how: str,
    directory: Path,
    endpoint: str,
    collect: Collect,
    ship: Ship,
    tmp_path: Path,
) -> None:
    directory.mkdir()
    python, log = recorded(tmp_path)
    collector = collect(endpoint, RCVHWM=0) if is_there else None
    options = ["--omprog", "--spool", str(directory), "--linger", "0"]
    options += ["--omprog-transactions"] * (talk is in_transactions)
    dialogue = Dialogue(ship("-c", endpoint, *options, executable=python))
    assert dialogue.answer() == "OK"
    answered = talk(dialogue)
    wait_until_whole(log, dialogue.finish().pid)
    came = taken(collector)
    chance = random.Random(how)
    cuts = chance.sample(range(len(answered)), CUTS)
    at = -1
    for kind, said, disk in answers(log, directory):
        at += kind == "pipe" and said.endswith(b"OK\n")
        if at in cuts:
            cuts.remove(at)
            rebuilt = tmp_path / f"rebuilt-{at}"
            disk.rebuild(rebuilt, how, chance)
            lost = set(messages()[: answered[at]]) - came - sent_from(rebuilt, collect, ship)
            assert not lost, f"at OK {at}: {len(lost)} of {answered[at]} are lost"
    assert not cuts


def taken(collector: Collector | None) -> set[bytes]:
    """All that came."""
    came: set[bytes] = set()
    while collector and not collector.is_silent(200):
        came.add(collector.texts(1)[0].encode())
    return came


def sent_from(directory: Path, collect: Collect, ship: Ship) -> set[bytes]:
    """What the next start sends."""
    collector = collect(RCVHWM=0)
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert result.status == 0, result.stderr
    came = {text.encode() for text in collector.texts(result.processed)}
    collector.close()
    return came

"""Chaos: everything is killed, stopped and cut off at random, and no line is lost or repeated.

    2 pipes  ──▶ zmqpush.py --spool --ack ──▶            ┌▶ Redis ──▶ 2 workers (BLPOP)
                                             2 zmqpull.py┤
    rsyslogd ──▶ zmqpush.py --omprog … ─────▶  --ack     └▶ or, with keys (CURVE), one SQLite file

What must arrive, and how often, is said in `tests.chaos.judging`.

The random choices are seeded; when exactly they strike is up to the machine. In `make test` chaos
lasts twenty seconds for each store; `make chaos MINUTES=10` goes on for as long as one likes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.happening import chaos_into
from tests.chaos.victims import SEED
from tests.support.keyring import Keyring

MINUTES = float(os.environ.get("CHAOS_MINUTES") or 2 / 3)  # of chaos, half of them into each store


@pytest.mark.long
@pytest.mark.timeout(30 * MINUTES + 600)
@pytest.mark.parametrize(("kind", "curve"), [("redis", False), ("sqlite", True)])
def test_everything_comes_once_whatever_happens(
    kind: str, curve: bool, keyring: Keyring, tmp_path: Path
) -> None:
    with chaos_into(kind, tmp_path, SEED, keyring if curve else None) as chaos:
        chaos.go_on(30 * MINUTES)
        verdict = chaos.end()
    assert verdict.is_good, str(verdict)

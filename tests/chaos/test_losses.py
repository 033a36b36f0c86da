"""The same kills with and without a spool and acknowledgement: what is lost, and what is not."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.judging import judge
from tests.chaos.stores import CALM_S, Store, TableStore
from tests.chaos.victims import SEED, Piped, Puller, connections_to
from tests.support.waiting import wait_until

MORE_THAN_BUFFERS = 40_000  # lines, than libzmq and the kernel hold for a connection
MODES = {"plain": [], "spool": ["--spool"], "ack": ["--ack"], "spool-ack": ["--spool", "--ack"]}


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.soak)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("killed", ["collector", "shipper"])
@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_is_lost_with_what_is_killed(
    killed: str, mode: str, kills: int, tmp_path: Path
) -> None:
    """For the table in README.md. It is printed: what is lost and not promised varies."""
    with_spool, with_ack = "--spool" in MODES[mode], "--ack" in MODES[mode]
    ack = ["--ack"] if with_ack else []
    with contextlib.ExitStack() as stack:
        store = TableStore(tmp_path / "log.db")
        stack.callback(store.close)
        puller = Puller(tmp_path, "pull", [*store.arguments, *ack])
        stack.callback(puller.close)
        puller.start()
        spool = tmp_path / "spool" if with_spool else None
        pipe = Piped(tmp_path, "pipe", SEED, ["--connect", puller.endpoint, *ack], spool)
        stack.callback(pipe.close)
        pipe.feed(store, most=1000, burst=1000, lead=store.LEAD)
        marks = list(kill_again_and_again(killed, kills, store, puller, pipe))
        pipe.finish()
        wait_until(
            lambda: not connections_to(puller.endpoint), "the collector has read all", CALM_S
        )
        puller.end()
        store.drain()
    verdict = judge({pipe.name: pipe.lives}, {}, store.hands)
    came = {arrival.number for arrival in store.hands[0].arrivals}
    unread = {number for life in pipe.lives for number in life.unread()} - came
    lost = [
        len(set(range(start, stop)) - came - unread)
        for start, stop in zip([0, *marks], [*marks[:-1], pipe.next()])
    ]
    print(
        f"{killed} killed {kills} times, {' '.join(MODES[mode]) or 'plain'}: {pipe.next()} lines; "
        f"lost {sum(lost)} (collector keeps up: {sum(lost[0::2])}, is behind: {sum(lost[1::2])})"
        + f", {len(verdict.lost)} of them journaled"
        * with_spool
        + f", and {len(unread)} that nobody had read from the pipe; "
        f"{len(verdict.repeated)} repeated"
    )
    if with_ack:
        assert not verdict.repeated
    if with_spool and killed == "shipper":
        assert not verdict.lost
    if with_ack and killed == "collector":
        assert not sum(lost)
        assert not unread


def kill_again_and_again(
    killed: str, times: int, store: Store, puller: Puller, pipe: Piped
) -> Iterator[int]:
    """Kill the "collector" or the "shipper"; the number of the next line after each kill.

    At each second one the collector is behind: it does not take what is written.
    """
    rng = random.Random(SEED)
    for step in range(times):
        store.wait_for(pipe.name, pipe.next(), CALM_S)
        time.sleep(rng.uniform(0, 0.2))
        assert puller.process
        if step % 2:
            puller.process.signal(signal.SIGSTOP)
            pipe.write(MORE_THAN_BUFFERS)
        if killed == "collector":
            puller.kill()
            puller.start()
        else:
            pipe.kill()
            puller.process.signal(signal.SIGCONT)
        yield pipe.next()

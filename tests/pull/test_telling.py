"""What only tells never stops what works: nobody reads what the collector says."""

from __future__ import annotations

import select
import signal
import subprocess
from pathlib import Path

import zmq

from tests.support.aliases import Ship
from tests.support.net import free_endpoint, unread
from tests.support.waiting import DEADLINE_S, wait_until

PIPE_IS_FULL = 59_000  # bytes: a short write does not begin in the rest of a page


def test_a_full_pipe_on_stderr_stops_nothing(ship: Ship, tmp_path: Path) -> None:
    endpoint, path = free_endpoint(), tmp_path / "events"
    options = ["--bind", endpoint, "--output", str(path), "--stats", "0.001"]
    collector = ship(*options, program="zmqpull.py", stderr=subprocess.PIPE)
    assert collector.process.stderr
    stderr = collector.process.stderr.fileno()
    before = -1

    def is_full() -> bool:
        nonlocal before
        last, before = before, unread(stderr)
        select.select([], [], [], 0.1)
        return before >= PIPE_IS_FULL and last == before

    wait_until(is_full, "nothing more is written into it")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.connect(endpoint)
    push.send(b'{"message":"x"}')
    wait_until(lambda: path.read_bytes() == b'{"message":"x"}\n', "it is written")
    collector.signal(signal.SIGTERM)
    assert collector.process.wait(DEADLINE_S) == 0
    context.destroy(linger=0)

"""`--stats` and SIGUSR1: how far a running shipper is, in one line."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable

import zmqpush


def check(options: argparse.Namespace) -> None:
    """They go with everything."""


def repeat(show: Callable[[], None], interval_s: float) -> None:
    """Call `show` each `interval_s` seconds."""

    def again() -> None:
        show()
        repeat(show, interval_s)

    asyncio.get_running_loop().call_later(interval_s, again)


def say_counters(stdin: zmqpush.Stdin, backlog: zmqpush.Backlog, link: zmqpush.Link) -> None:
    """Say them on stderr."""
    waiting = backlog.waiting()
    zmqpush.say(
        f"{time.monotonic() - stdin.started_at:.1f}s: {backlog.sent + waiting} messages "
        f"read, {backlog.sent} handed over, {waiting} waiting "
        f"({backlog.size} bytes{backlog.place()}), {len(link.connections)} connected"
    )

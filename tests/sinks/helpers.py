"""What the tests of several sinks share."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.proc import (
    cpu_s,
    proc_status,
    wait_until_asleep,
    wait_until_stopped,
    wakeups,
)
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S


def ask(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path, timeout=DEADLINE_S)) as database:
        return database.execute(sql, values).fetchall()


def check_sleeps(pid: int) -> None:
    """Let it come to rest; then nothing may wake it, and it does not work without having slept."""
    wait_until_asleep(pid)
    before = cpu_s(pid)
    assert wakeups(pid, 1.0)[0] == 0
    assert cpu_s(pid) == before
    assert proc_status(pid, "State").startswith("S")


@contextlib.contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    """It does nothing meanwhile, but the kernel takes what is sent to it."""
    server.send_signal(signal.SIGSTOP)
    wait_until_stopped(server.pid)
    try:
        yield
    finally:
        server.send_signal(signal.SIGCONT)

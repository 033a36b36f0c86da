"""`--progress`: a live line on stderr, where that is a terminal."""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any

import zmqpush
from zmqlines.counters import repeat


def check(options: argparse.Namespace) -> None:
    """Raises ValueError where it cannot be shown."""
    try:
        import tqdm  # noqa: F401
    except ImportError as missing:
        raise ValueError(f"--progress: {missing}; install tqdm") from None


class Screen:
    """stderr, a terminal, for tqdm: what does not fit is dropped, and not waited for."""

    encoding = "utf-8"

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # it has hung up
            zmqpush.offer(text.encode(), self.fileno())

    def flush(self) -> None: ...

    def fileno(self) -> int:
        return 2


class LiveLine:
    """Lines, their rate, what waits, and how much of a regular file is done."""

    INTERVAL_S = 0.5

    def __init__(self, stdin: zmqpush.Stdin, backlog: zmqpush.Backlog, spool: str) -> None:
        """`spool`: what is kept there is done; "" where that is nothing."""
        self._stdin = stdin
        self._backlog = backlog
        self._spool = spool
        self._bar: Any = None

    def begin(self) -> None:
        """Show it, and bring it up to date from now on."""
        self._update()
        repeat(self._update, self.INTERVAL_S)

    def end(self) -> None:
        """Show the last state, and leave it there."""
        self._update()
        self._bar.close()

    def _update(self) -> None:
        import tqdm

        backlog, stdin = self._backlog, self._stdin
        if self._bar is None:
            total = stdin.file_size
            self._bar = tqdm.tqdm(
                total=total, unit="B", unit_scale=True, dynamic_ncols=True, file=Screen()
            )
        rate = backlog.sent / max(time.monotonic() - stdin.started_at, 1e-9)
        waiting = backlog.waiting()
        self._bar.set_postfix_str(f"{backlog.sent} lines, {rate:.0f}/s, {waiting} waiting", False)
        done = stdin.taken if self._spool else stdin.taken - backlog.size
        self._bar.update(done - self._bar.n)

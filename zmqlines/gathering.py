"""`--gather`: when to let input gather, and for how long. Pure.

Standard input loads it when its source has woken us a few times: who comes seldom needs none of it.
"""

from __future__ import annotations

import argparse
import math


def check(options: argparse.Namespace) -> None:
    """It goes with all other options."""


class Gathering:
    """Tells when to, and for how long; times in seconds, sizes in bytes.

    A wake-up costs as much as dozens of lines. A source that wakes us seldom is read at once; from
    one that wakes us often, and writes more than a line or two in that time, stdin is read every
    `longest_s` instead (a tick), and nothing that comes meanwhile wakes us. Nobody tells then that
    the pipe fills, so a tick comes sooner where half of it is as much as the last one found.
    """

    WAKES = 16  # wake-ups, or ticks, after which the source is judged anew
    SHORTEST_S = 0.001  # epoll cannot wait less
    MOST_AT_A_TICK = 200_000  # bytes
    MANY = 16 * 1024  # bytes at once, in which lines are counted: it takes time

    def __init__(self, longest_s: float) -> None:
        """`longest_s` 0: never."""
        self.is_on = False
        self.room = 4096  # bytes that the source can write while nobody reads: a terminal's
        self._longest_s = longest_s
        self._often = 2 / longest_s if longest_s else math.inf  # a second
        self._since = 0.0  # the beginning of the time that is judged
        self._rested_s = 0.0  # of that
        self._count = 0  # wake-ups, or ticks, in that time
        self._lines = 0
        self._read_at = 0.0  # when there was nothing more to read
        self._size = 0  # bytes that came since
        self._empty_ticks = 0

    def took(self, data: bytes) -> None:
        """`data` was read."""
        self._size += len(data)
        self._lines += data.count(b"\n", 0, self.MANY)

    def rested(self, pause_s: float) -> None:
        """Nothing could wake us for so long."""
        self._rested_s += pause_s

    def woken(self, now: float) -> bool:
        """Count a wake-up; whether to gather from now on."""
        if self._count == self.WAKES:
            span = max(now - self._since, 1e-9)
            listened = max(span - self._rested_s, 1e-9)
            self.is_on = min(self._count / listened, self._lines / span) >= self._often
        if self._count in (0, self.WAKES):
            self._judge_from(now)
            if not self.is_on:  # else what came so far tells how soon the first tick must be
                self._read_at, self._size, self._empty_ticks = now, 0, 0
        self._count += 1
        return self.is_on

    def pause_s(self, now: float) -> float:
        """All was read: how long to wait for the next tick; 0: until the source wakes us."""
        span = max(now - self._read_at, 1e-9)
        rate = self._size / span
        self._empty_ticks = 0 if self._size else self._empty_ticks + 1
        self._read_at, self._size = now, 0
        self._count += 1
        pause_s = self._longest_s
        if rate:
            pause_s = min(pause_s, min(self.room / 2, self.MOST_AT_A_TICK) / rate)
        if self._count > self.WAKES:
            self.is_on = self._lines / (now - self._since) >= self._often
            self._judge_from(now)
        self.is_on = self.is_on and self._empty_ticks < 2 and pause_s >= self.SHORTEST_S
        if not self.is_on:
            self._count = 0
        return pause_s if self.is_on else 0.0

    def _judge_from(self, now: float) -> None:
        self._since, self._rested_s, self._count, self._lines = now, 0.0, 0, 0

"""What is written, what arrives, and what is wrong with it.

What is promised begins with the journal. So one must know what was journaled:

- A shipper journals what it has read from a pipe before it reads on. Of what was written to a
  process a prefix is journaled, and that is at least: all that it had read before it read again
  (the pipe tells how much is unread), what lies in its spool when it was killed, and all before a
  line that arrived. Those must arrive. What comes after them may have died in the pipe or in
  memory; if it arrives nevertheless, it must do so once, as everything.
- All that rsyslogd was given must arrive. rsyslog repeats the line at which a program was killed:
  the new program makes another event of it, with a `@pid` of its own. These are counted apart. An
  event, which is a number and a `@pid`, arrives once. (In transactions, rsyslog 8.2302 gives the
  same program the same message twice, once its predecessor was killed between two of them: there
  nobody could tell. So there are none here.)
- rsyslog 8.2608 does so, too, where a program was killed before it said that it was ready: it gives
  the next one the first message of a batch, and though that is answered with OK, gives it again
  behind the last. So one message for each program that was killed may be repeated or be late.
- The events of each `@pid` come in the order of their numbers, in the hands of each worker.
- What Redis has popped is the worker's, but a reply may die with Redis: a pop is in the AOF
  before it is answered. Therefore workers rest, between two pops, while Redis is restarted.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

from tests.support.collector import strict_json

LINE_SIZE = 100  # bytes, with the line end


def text_of(source: str, number: int) -> str:
    return f"{source} {number:08} ".ljust(LINE_SIZE - 1, ".")


def numbers_in(text: bytes, source: str) -> list[int]:
    """The numbers of `source` in events, whatever else is in them."""
    return list(map(int, re.findall(rb"%b (\d{8}) \." % source.encode(), text)))


class Arrival(NamedTuple):
    """An event."""

    source: str
    number: int
    pid: int

    @classmethod
    def of(cls, event: bytes) -> Arrival:
        """The one that an event's JSON tells of, whose text is checked."""
        members = strict_json(event)
        found = re.search(r"(\w+) (\d{8}) \.+$", members["message"])
        assert found, event
        arrival = cls(found[1], int(found[2]), members["@pid"])
        assert members["message"].endswith(text_of(arrival.source, arrival.number)), event
        return arrival


class Hand:
    """What somebody got, in order."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.last: dict[str, int] = {}  # highest number, by source

    def take(self, event: bytes) -> None:
        arrival = Arrival.of(event)
        self.arrivals.append(arrival)
        highest = self.last.get(arrival.source, -1)
        self.last[arrival.source] = max(arrival.number, highest)


@dataclasses.dataclass
class Life:
    """What a shipper's process was given: from the number `start` up to, not with, `stop`."""

    pid: int
    start: int
    stop: int
    journaled: int  # up to this number, at least
    _taken: int = 0  # lines that it had read when we looked last

    def unread(self) -> range:
        """What it has not read whole, as we know it."""
        return range(self.start + self._taken, self.stop)

    def observe(self, unread_bytes: int) -> None:
        """So much of what it was given it has not read yet: learn what is journaled."""
        taken = self.stop - self.start - -(-unread_bytes // LINE_SIZE)
        if taken > self._taken:  # it has read on
            self.journaled = max(self.journaled, self.start + self._taken)
            self._taken = taken

    def found(self, numbers: list[int]) -> None:
        """These are in a spool: learn what is journaled."""
        self.journaled = max([self.journaled, *(n + 1 for n in numbers if n < self.stop)])


@dataclasses.dataclass
class Verdict:
    """What came of it all."""

    arrived: int = 0
    lost: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    repeated: list[Arrival] = dataclasses.field(default_factory=list)
    disordered: list[Arrival] = dataclasses.field(default_factory=list)
    changed: list[Arrival] = dataclasses.field(default_factory=list)  # not of whom it was given to
    repeated_by_rsyslog: int = 0

    def __str__(self) -> str:
        counts = ", ".join(
            f"{len(found)} {what}" + f" (such as {found[:3]})" * bool(found)
            for what, found in (
                ("lost", self.lost),
                ("repeated", self.repeated),
                ("out of order", self.disordered),
                ("of another process", self.changed),
            )
        )
        return f"{self.arrived} arrived: {counts}; {self.repeated_by_rsyslog} repeated by rsyslog"

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.repeated or self.disordered or self.changed)


def judge(
    lives: dict[str, list[Life]],
    logged: dict[str, int],
    hands: Sequence[Hand],
    programs_killed: int = 0,
) -> Verdict:
    """What is wrong with what came to `hands`: of processes, and of what rsyslogds have logged."""
    verdict = Verdict(sum(len(hand.arrivals) for hand in hands))
    pids: dict[tuple[str, int], set[int]] = collections.defaultdict(set)
    seen: set[Arrival] = set()
    for hand in hands:
        last: dict[tuple[str, int], int] = {}  # by source and pid
        for arrival in hand.arrivals:
            if arrival in seen:
                verdict.repeated.append(arrival)
            elif arrival.number < last.get((arrival.source, arrival.pid), -1):
                verdict.disordered.append(arrival)
            else:
                last[arrival.source, arrival.pid] = arrival.number
            seen.add(arrival)
            pids[arrival.source, arrival.number].add(arrival.pid)
    for source, its_lives in lives.items():
        for life in its_lives:
            numbers = range(life.start, life.stop)
            came = [number for number in numbers if (source, number) in pids]
            due = max([life.journaled, *(number + 1 for number in came[-1:])])
            missing = set(range(life.start, due)).difference(came)
            verdict.lost += [(source, number) for number in sorted(missing)]
            for number in came:
                others = pids[source, number] - {life.pid}
                verdict.changed += [Arrival(source, number, pid) for pid in others]
    for source, count in logged.items():
        verdict.lost += [(source, n) for n in range(count) if (source, n) not in pids]
        verdict.repeated_by_rsyslog += sum(len(pids[source, n] or "x") - 1 for n in range(count))
    given_again = {a for a in (*verdict.repeated, *verdict.disordered) if a.source in logged}
    if len(given_again) <= programs_killed:
        verdict.repeated_by_rsyslog += len(given_again)
        verdict.repeated = [a for a in verdict.repeated if a not in given_again]
        verdict.disordered = [a for a in verdict.disordered if a not in given_again]
    return verdict

"""What a sink owes to the collector."""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping

import zmqpush
from zmqlines.ack import Offer, gaps


class Trouble(Exception):
    """A sink cannot take events now; the message says why. The same is tried again."""


class Refused(Exception):
    """A sink will never take an event; the same call comes again, perhaps without it."""

    def __init__(self, event: bytes, why: str) -> None:
        super().__init__(why)
        self.event = event
        self.why = why


class Sink(abc.ABC):
    """Where events are kept. After Trouble the same call comes again, and goes on with the rest."""

    name: str  # for messages
    put_away: frozenset[int] = frozenset()  # id() of events in hand that it need not take

    async def begin(self) -> None:
        """Look whether it can take events, before there are any. Raises Trouble."""
        return  # most have been opened

    @abc.abstractmethod
    async def write(self, events: list[bytes]) -> None:
        """Take `events`, each a JSON object on one line, in their order.

        Raises Trouble and Refused.
        """

    @abc.abstractmethod
    async def keep(self, offers: list[Offer]) -> dict[bytes, int]:
        """Take what is new in `offers`, and return when it is there for good.

        Sets `is_new` of those; returns the records of all their shippers (docs/protocol.md). A
        record and its events are kept in one step, where the sink has such. Raises Trouble and
        Refused.
        """

    @abc.abstractmethod
    async def forget(self, shippers: list[bytes]) -> None:
        """Keep no record of `shippers`: each has said goodbye. Raises Trouble."""

    def reopen(self) -> None:
        """At SIGHUP: go on where the name leads now, if that can have changed."""
        return  # for most sinks it cannot

    async def leave(self) -> None:
        """The collector ends: take away what only it needed. Nobody waits long, or for success."""
        return  # most have nothing of the kind

    def close(self) -> None:
        """It is not used any more: what it has written is whole after that."""
        return  # for most sinks it is always

    def wanted(self, events: list[bytes]) -> list[bytes]:
        """`events` without those that were put away."""
        if not self.put_away:
            return events
        return [event for event in events if id(event) not in self.put_away]

    def say_gaps(self, offers: list[Offer], before: Mapping[bytes, int | None]) -> None:
        """Tell whose chunks never came here, though it has later ones (`before`: its records)."""
        for shipper, first, last in gaps(offers, before):
            zmqpush.say(
                f"{self.name}: {last - first + 1} chunks of shipper {shipper.hex()[:8]} never came "
                f"here, numbers {first} to {last}: another collector has acknowledged them"
            )


def identity(path: str) -> tuple[int, int] | None:
    """What tells the file at `path` from all others; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino

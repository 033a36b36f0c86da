"""What a sink owes to the collector."""

from __future__ import annotations

import abc

from zmqlines.ack import Offer


class Trouble(Exception):
    """A sink cannot take events now; the message says why. The same is tried again."""


class Sink(abc.ABC):
    """Where events are kept. After Trouble the same call comes again, and goes on with the rest."""

    name: str  # for messages

    @abc.abstractmethod
    async def write(self, events: list[bytes]) -> None:
        """Take `events`, each a JSON object on one line, in their order. Raises Trouble."""

    @abc.abstractmethod
    async def keep(self, offers: list[Offer]) -> dict[bytes, int]:
        """Take what is new in `offers`, and return when it is there for good.

        Sets `is_new` of those; returns the records of all their shippers (docs/protocol.md). A
        record and its events are kept in one step, where the sink has such. Raises Trouble.
        """

    @abc.abstractmethod
    async def forget(self, shippers: list[bytes]) -> None:
        """Keep no record of `shippers`: each has said goodbye. Raises Trouble."""

    def reopen(self) -> None:
        """At SIGHUP: go on where the name leads now, if that can have changed."""
        return  # for most sinks it cannot

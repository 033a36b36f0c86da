"""What is given to a sink is given until it has it: trouble is told once, and the rest waits.

What a sink refuses for ever goes to the dead letters, if there are such; else it waits, too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import zmqpush
from zmqlines.sinks.contract import Refused, Sink, Trouble
from zmqlines.sinks.file import open_output

RETRY_S = 1.0
SHOWN = 60  # characters of an event that is told of

Got = TypeVar("Got")


class DeadLetters:
    """A file of events that a sink will never take: JSON lines of reason, sink and event."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self.name = path
        self._file = open_output(path)

    async def put(self, sink: Sink, refused: Refused) -> None:
        """Return when it is on the disk. Raises Trouble, after which nothing is half done."""
        reason, name = (json.dumps(text).encode() for text in (refused.why, sink.name))
        line = b'{"reason":%b,"sink":%b,"event":%b}' % (reason, name, refused.event)
        try:
            await self._file.write_through([line])
        except Trouble as trouble:
            self._file.drop()
            raise Trouble(f"--dead-letter {self.name}: {trouble}") from None

    def reopen(self) -> None:
        """At SIGHUP."""
        self._file.reopen()


class Insisting:
    """A sink, to which the same is given until it succeeds."""

    def __init__(self, sink: Sink, letters: DeadLetters | None) -> None:
        self.sink = sink
        self._letters = letters
        self._turn = asyncio.Lock()  # the first events may come before the beginning is over

    async def begin(self) -> None:
        """Tell now, and not at the first event, that the sink cannot take any."""
        await self._until_it_succeeds(self.sink.begin)

    async def insist(self, attempt: Callable[[], Awaitable[Got]]) -> Got:
        """What `attempt` at the sink gives when it succeeds, however long that takes."""
        got = await self._until_it_succeeds(attempt)
        self.sink.put_away = frozenset()
        return got

    async def _until_it_succeeds(self, attempt: Callable[[], Awaitable[Got]]) -> Got:
        failing = False
        async with self._turn:
            while True:
                try:
                    got = await self._attempt(attempt)
                    break
                except Trouble as trouble:
                    if not failing:
                        zmqpush.say(f"{self.sink.name}: {trouble}; the senders have to wait")
                    failing = True
                    await asyncio.sleep(RETRY_S)
        if failing:
            zmqpush.say(f"{self.sink.name}: going on")
        return got

    async def _attempt(self, attempt: Callable[[], Awaitable[Got]]) -> Got:
        """What it gives, without what it refuses. Raises Trouble."""
        while True:
            try:
                return await attempt()
            except Refused as refused:
                await self._put_away(refused)

    async def _put_away(self, refused: Refused) -> None:
        event = refused.event
        start = event[:SHOWN].decode(errors="replace")
        what = f"an event of {len(event)} bytes ({start}...) can never be written: {refused.why}"
        if not self._letters:
            raise Trouble(f"{what}; --dead-letter FILE would put it away, until then all waits")
        await self._letters.put(self.sink, refused)
        zmqpush.say(f"{self.sink.name}: {what}; it is in {self._letters.name}")
        self.sink.put_away |= {id(event)}

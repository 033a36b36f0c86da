"""`--ack`: the shipper's end of acknowledged delivery, a DEALER socket (docs/protocol.md)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
from typing import Any

import zmq

from zmqlines.ack import Window, read_answer
from zmqpush import Backlog, EventFormat, Link, say

ANSWER_S = 5.0  # after so long an answer is late
LONGEST_PATIENCE_S = 60.0


def check(options: argparse.Namespace) -> None:
    """Raises ValueError where it does not go with the other options."""
    if options.bind:
        raise ValueError("--ack connects: it cannot be used with --bind")


class AckLink(Link):
    """A DEALER socket that is connected to one collector at a time.

    TCP loses nothing on a connection that stands, so what was sent is sent again on a new one only;
    and not before the collector has told what it has. One that is stuck would otherwise be given
    all of it at each attempt, and have to keep it.
    A collector that does not answer is asked; when it is silent then, too, the next one is tried.
    """

    KIND = zmq.DEALER
    LINGER_MS = 0  # what is safe needs no delivery

    def __init__(self, options: argparse.Namespace, form: EventFormat) -> None:
        super().__init__(options, form)
        self._window = Window()
        self._endpoints = itertools.cycle(options.connect)
        self._endpoint = ""  # of the collector in use
        self._looked_up: set[str] = set()  # endpoints whose names are being resolved
        self._welcome = False  # the connection stands, and chunks may be sent
        self._asked = False
        self._told = False  # that somebody talks nonsense
        self._patience_s = ANSWER_S  # grows while nobody answers
        self._late: asyncio.TimerHandle | None = None
        self._progress = asyncio.Event()

    def _connect_all(self) -> None:
        """One at a time: deliver() begins with the first."""

    def most_held(self) -> int:
        """Of what was acknowledged libzmq holds nothing."""
        return 0

    def held(self, sent: int) -> int:
        """Of what was acknowledged libzmq holds nothing."""
        return 0

    def waits(self, undelivered: int, place: str) -> str:
        """What keeps us after the end of the input."""
        return f"{undelivered} messages wait{place} for a collector at"

    def gave_up(self, undelivered: int, waited: int) -> str:
        """What is lost when nobody tries any longer."""
        return f"gave up {undelivered} messages: no collector has acknowledged them"

    async def deliver(self, backlog: Backlog) -> None:
        """Send the backlog, oldest chunk first, until its end; return when all of it is safe."""
        self._backlog = backlog
        self.transport.set_write_buffer_limits(high=0, low=0)  # tell us when it is empty
        self._push.setsockopt(zmq.IMMEDIATE, 0)  # or answers that came just before the end are lost
        self._dial()
        while chunk := await backlog.get():
            while self._window.is_full():
                await self._until_progress()
            self._window.add(backlog.shipper_of(chunk), chunk)
            self._send_chunks()
            if not self._late:
                self._wait_for_answer()
        while self._window.size:
            await self._until_progress()

    def _send_chunks(self) -> None:
        """Send those that the connection has not had, as long as libzmq takes them."""
        while self._welcome and not self.transport.get_write_buffer_size():
            message = self._window.message()
            if not message:
                return
            self.transport.write(message)

    async def _until_progress(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    def _wait_for_answer(self) -> None:
        """Start to wait, or do no longer if there is nothing to wait for."""
        if self._late:
            self._late.cancel()
        self._late = None
        if self._window.size:
            self._late = self._loop.call_later(self._patience_s, self._answer_is_late)

    def _answer_is_late(self) -> None:
        if self._welcome and not self._asked:
            self._ask()
        else:
            self._patience_s = min(2 * self._patience_s, LONGEST_PATIENCE_S)
            self._dial()
        self._wait_for_answer()

    def _ask(self) -> None:
        """Let the collector tell what is safe."""
        self._asked = True
        for question in self._window.questions():
            self.transport.write([question])

    def _dial(self) -> None:
        """Leave the collector in use; connect to the next one."""
        if self._endpoint:
            with contextlib.suppress(zmq.ZMQError):
                self._push.disconnect(self._endpoint)
        self._welcome = False
        for _, old_enough in self.connections.values():  # libzmq does not tell that it closes them
            old_enough.cancel()
        self.connections.clear()
        self.on_change(False)
        self._endpoint = next(self._endpoints)
        self.connect(self._endpoint)

    async def close(self) -> None:
        """Leave at once: all is safe, and what has not gone out yet need not."""
        self.transport.abort()
        await super().close()

    def connect(self, endpoint: str) -> None:
        """Connect, at once or when the name resolves: that may take longer than our patience."""
        if endpoint not in self._looked_up:
            self._looked_up.add(endpoint)
            super().connect(endpoint)

    def _connect_to(self, endpoint: str, ipv6: bool = False) -> None:
        self._looked_up.discard(endpoint)
        if endpoint == self._endpoint:  # not one that was left before its name resolved
            super()._connect_to(endpoint, ipv6)

    # what the transport calls

    def resume_writing(self) -> None:
        self._send_chunks()

    def event_received(self, event: Any) -> None:
        if event.event == zmq.EVENT_DISCONNECTED:
            self._welcome = False
            if event.value not in self.connections:  # one that was left
                return
        super().event_received(event)
        if event.event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._window.again()
            self._asked = False
            self._welcome = not self._window.size
            if not self._welcome:
                self._ask()

    def msg_received(self, msg: list[bytes]) -> None:
        try:
            shipper, number = read_answer(msg)
        except ValueError as error:
            if not self._told:
                say(f"{self._endpoint} does not speak the protocol of --ack: {error}")
            self._told = True
            return
        chunks = self._window.safe(shipper, number)
        for chunk in chunks:
            self._backlog.sent += chunk.count()
            self._backlog.done(chunk, 0)
        if chunks:
            self._patience_s = ANSWER_S
            self._wait_for_answer()
            self._progress.set()
        if chunks or not self._welcome:
            self._asked = False
        self._welcome = True
        self._send_chunks()

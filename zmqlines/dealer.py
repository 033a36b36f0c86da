"""`--ack`: the shipper's end of acknowledged delivery, a DEALER socket (docs/protocol.md)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
from typing import Any

import zmq

from zmqlines.ack import ACK_GOODBYE, Answer, OtherVersion, Window, bare
from zmqpush import Backlog, EventFormat, Link, say

ANSWER_S = 5.0  # after so long an answer is late
LONGEST_PATIENCE_S = 60.0
MOST_CUTS = 3  # without an answer, after which a chunk of LARGE bytes may be the reason
LARGE = 1024 * 1024
FAREWELL_S = 0.5  # how long to wait, when all is safe, until the collector has forgotten us


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
        self._cuts = 0  # of connections, since something was acknowledged
        self._told = False  # that somebody talks nonsense
        self._farewells: set[bytes] = set()  # from whom one is awaited
        self._patience_s = ANSWER_S  # grows while nobody answers
        self._late: asyncio.TimerHandle | None = None
        self._progress = asyncio.Event()

    def _connect_all(self) -> None:
        """One at a time: deliver() begins with the first."""

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
        await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        """Let the collector forget us: who comes once need not be remembered for a month.

        First our own files have to forget, for good, what they had: after a loss of power it would
        be sent again, to somebody who does not know that it is old.
        """
        if not (self._welcome and self.connections):
            return
        for shipper, last in self._window.finished().items():
            file = getattr(last, "file", None)  # one of a spool, which has its numbers
            if file is None or file.is_emptied(last.number):
                self._farewells.add(shipper)
                self.transport.write([bare(ACK_GOODBYE, shipper, last.number)])
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._until_forgotten(), FAREWELL_S)

    async def _until_forgotten(self) -> None:
        while self._farewells and self.connections:
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

    def _was_cut(self) -> None:
        """The collector has gone, or has cut us off: say so if it may be for what we send."""
        self._cuts += 1
        largest = self._window.largest_under_way()
        if self._cuts == MOST_CUTS and largest >= LARGE:
            say(
                f"{self._endpoint} has cut the connection {MOST_CUTS} times and answered for "
                f"nothing; {largest} bytes were under way in one piece: is that more than its "
                "--max-message?"
            )

    # what the transport calls

    def resume_writing(self) -> None:
        self._send_chunks()

    def event_received(self, event: Any) -> None:
        if event.event == zmq.EVENT_DISCONNECTED:
            self._welcome = False
            if event.value not in self.connections:  # one that was left
                return
            self._progress.set()  # who waits for a farewell waits in vain
            self._was_cut()
        super().event_received(event)
        if event.event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._window.again()
            self._asked = False
            self._welcome = not self._window.size
            if not self._welcome:
                self._ask()

    def msg_received(self, msg: list[bytes]) -> None:
        try:
            answer = Answer.read(msg)
        except ValueError as error:
            if not self._told:
                what = "does not speak the protocol of --ack"
                if isinstance(error, OtherVersion):
                    what = "does not fit"
                say(f"{self._endpoint} {what}: {error}")
            self._told = True
            return
        if answer.is_farewell:
            self._farewells.discard(answer.shipper)
            self._progress.set()
            return
        self._window.credit = answer.credit
        chunks = self._window.safe(answer.shipper, answer.number)
        for chunk in chunks:
            self._backlog.sent += chunk.count()
            self._backlog.done(chunk, 0)
        if chunks:
            self._cuts = 0
            self._patience_s = ANSWER_S
            self._wait_for_answer()
            self._progress.set()
        if chunks or not self._welcome:
            self._asked = False
        self._welcome = True
        self._send_chunks()

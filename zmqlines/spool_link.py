"""`--spool` without `--ack`: a socket for each collector, and what of it has left this machine.

    Spool --get--> _feed() --> Fifo: a PUSH socket --> a collector
          <-------- left() --- of those that have left, the rows go
          <---- put_back() --- of a connection that has ended, what may not have left is sent again

Each collector that is connected to has a socket of its own, and so a FIFO of its own. A socket that
is bound is one, too, as long as one collector at a time is connected to it. Where there are several
at once, nobody can tell which of them libzmq gave a message to. The rows stay until all together
have acknowledged as many bytes as all messages are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import operator
from collections.abc import Iterable
from typing import Any

import zmq

from zmqlines.departures import Departures, Descriptor, Sent, wire_size
from zmqlines.spool import Spool, file_of
from zmqpush import RECONNECT_MAX_MS, RECONNECT_MS, UP, Backlog, EventFormat, Link, Sendable, say

LOOK_AGAIN_S = 0.1  # at what the kernel has not got rid of; twice as long each time
LONGEST_LOOK_S = 60.0
SETTLING_S = 0.005  # at the end, between two looks; twice as long each time
LONGEST_SETTLING_S = 0.1


class Fifo(Link):
    """A PUSH socket for one connection: where that ends, so does this."""

    def __init__(self, options: argparse.Namespace, form: EventFormat) -> None:
        super().__init__(options, form)
        self.lost = asyncio.get_running_loop().create_future()  # the connection was
        self.chunk: Sendable | None = None  # that is being sent
        self.departures = Departures(options.sndhwm)
        self._descriptors: dict[int, Descriptor] = {}
        self._is_shared = False  # there were several connections at once
        self._left_bytes = 0  # by those of them that have ended
        self._can_count = False  # bytes on the wire: we know what is there
        self._is_closed = False
        self._push: Any = None  # there is none where no more files may be open
        self.transport: Any = None

    def _connect_to(self, endpoint: str, ipv6: bool = False) -> None:
        if not self._push.closed:
            # What waits for a connection that has ended goes with it.
            self._push.setsockopt(zmq.IMMEDIATE, 1)
        super()._connect_to(endpoint, ipv6)

    def has_collector(self) -> bool:
        """Whether one is there now."""
        return bool(self.connections) and self.met_collector.is_set()

    def bound(self) -> list[str]:
        """The endpoints that were bound, with their ports."""
        return list(self.transport.bindings())

    # what the transport calls

    def event_received(self, event: Any) -> None:
        if self.lost.done():
            return
        if event.event == zmq.EVENT_DISCONNECTED:
            self._disconnected(event.value)
        elif event.event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._can_count = self._push.getsockopt(zmq.MECHANISM) == zmq.NULL
        elif event.event & UP:
            with contextlib.suppress(OSError):  # it has ended already
                descriptor = Descriptor(event.value, event.event == zmq.EVENT_CONNECTED)
                self._descriptors[event.value] = descriptor
        super().event_received(event)
        self._is_shared = self._is_shared or len(self.connections) > 1

    def _disconnected(self, descriptor: int) -> None:
        if self._is_shared and descriptor in self._descriptors:
            self._left_bytes += self._counted(self._descriptors[descriptor])
        elif self.met_collector.is_set():
            self.lost.set_result(None)
            return  # the descriptor is wanted for what it still tells
        self._forget_descriptor(descriptor)

    def _forget_descriptor(self, number: int) -> None:
        descriptor = self._descriptors.pop(number, None)
        if descriptor:
            descriptor.close()

    # what has left

    def left(self, thoroughly: bool) -> list[Sent]:
        """The chunks that have left since the last call; if `thoroughly`, by each byte.

        Where nothing needs that, some more are kept, and sent again when the collector dies.
        """
        if self._is_shared:
            return self._left_by_all()
        if len(self._descriptors) != 1:
            return []
        (descriptor,) = self._descriptors.values()
        if thoroughly:
            return self._first(descriptor)
        return self.departures.left(descriptor.in_kernel())

    def settle(self) -> tuple[list[Sent], list[Sent]]:
        """Of those that have not left so far: the ones that have, and the ones that may not have.

        libzmq has closed the connection.
        """
        if self._is_shared:
            return self._left_by_all(), []  # in the spool they stay
        left: list[Sent] = []
        if len(self._descriptors) == 1:
            (descriptor,) = self._descriptors.values()
            if self._is_closed and not descriptor.queued() and not descriptor.has_ended():
                left = self.departures.rest()
            else:
                left = self._first(descriptor)
        return left, self.departures.rest()

    def _first(self, descriptor: Descriptor) -> list[Sent]:
        """Those that are in what the other kernel has acknowledged."""
        size = self._counted(descriptor)
        begun = wire_size(self.chunk.messages(), self.chunk.size) if self.chunk else 0
        # More than it can be would mean that we do not know what is on the wire.
        if size + descriptor.queued() <= self.departures.wire() + begun:
            return self.departures.first_on_wire(size)
        return []

    def _counted(self, descriptor: Descriptor) -> int:
        """Bytes of messages that the other kernel has acknowledged; 0 where nobody can tell."""
        size = descriptor.acknowledged() if self._can_count else None
        return max(0, size - descriptor.first) if size else 0

    def _left_by_all(self) -> list[Sent]:
        if self.chunk:  # of which some bytes are among those that are counted
            return []
        size = self._left_bytes + sum(map(self._counted, self._descriptors.values()))
        return self.departures.rest() if size == self.departures.wire() else []

    def is_waiting(self) -> bool:
        """Whether more may have left in a while, though nothing more is sent."""
        if self._is_shared:
            return self.departures.is_waiting(in_pipe=True)
        kernel_has_some = any(each.queued() for each in self._descriptors.values())
        return kernel_has_some and self.departures.is_waiting(in_pipe=False)

    # the end

    async def hand_over(self) -> None:
        """Let libzmq deliver what it has. Its context tells when that is done."""
        self.transport.close()
        await self._closed.wait()
        self._is_closed = True

    async def leave_kernel(self) -> None:
        """Return when this kernel has nothing left to deliver, or nobody to deliver it to."""
        pause_s = SETTLING_S
        while any(each.queued() and not each.has_ended() for each in self._descriptors.values()):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_SETTLING_S)

    def drop(self) -> None:
        """End it, with what libzmq still has."""
        for number in list(self._descriptors):
            self._forget_descriptor(number)
        for _, old_enough in self.connections.values():
            old_enough.cancel()
        self.connections.clear()
        if self._push and not self._is_closed:
            self._push.setsockopt(zmq.LINGER, 0)
            if self.transport:
                self.transport.abort()
            else:
                self._push.close()


class Place:
    """Where collectors are: an endpoint to connect to, or those that are bound."""

    def __init__(self, options: argparse.Namespace, connect: list[str], bind: list[str]) -> None:
        self.options = copy.copy(options)
        self.options.connect, self.options.bind = connect, bind
        self.fifo: Fifo | None = None

    async def open(self, form: EventFormat) -> None:
        """Begin anew. Raises OSError, whose `filename` is the endpoint."""
        fifo = Fifo(self.options, form)
        try:
            await fifo.open()
        except zmq.ZMQError as error:
            fifo.drop()
            where = " ".join(self.options.connect + self.options.bind)
            raise OSError(error.errno, error.strerror, where) from None
        except OSError:
            fifo.drop()
            raise
        self.options.bind = fifo.bound()
        self.fifo = fifo


class SpoolLink(Link):
    """All collectors; each takes the next chunk when it has room."""

    def __init__(self, options: argparse.Namespace, form: EventFormat) -> None:
        super().__init__(options, form)
        self._form = form
        self._places = [Place(options, [endpoint], []) for endpoint in options.connect]
        if options.bind:
            self._places.append(Place(options, [], options.bind))
        self._backlog: Spool | None = None
        self._finished = self._loop.create_future()
        self._more = asyncio.Event()  # something was put back
        self._told: set[Place] = set()  # that they cannot be opened again
        self._look: asyncio.Handle | None = None
        self._look_again_s = LOOK_AGAIN_S

    async def open(self) -> None:
        """Bind and connect. Raises OSError, whose `filename` is the endpoint."""
        for place in self._places:
            await self._open(place)

    async def _open(self, place: Place) -> None:
        await place.open(self._form)
        assert place.fifo
        place.fifo.on_change = self._fifo_changed

    def _fifo_changed(self, _: bool) -> None:
        """At one of the sockets a collector has come, or the last one has gone."""
        self.on_change(any(fifo.has_collector() for fifo in self._fifos()))

    def _fifos(self) -> Iterable[Fifo]:
        return [place.fifo for place in self._places if place.fifo]

    async def deliver(self, backlog: Backlog) -> None:
        """Send the backlog until its end; return when all of it has left this machine."""
        assert isinstance(backlog, Spool)
        self._backlog = backlog
        backlog.look = self.look
        while True:
            await self._send_all(backlog)
            if not await self._hand_over(backlog):
                return
            for place in self._places:
                await self._open_again(place)

    async def close(self) -> None:
        """All have been closed."""

    async def _send_all(self, backlog: Spool) -> None:
        """Return when nothing waits any more, and no more will come."""
        self._finished = self._loop.create_future()
        watching = self._loop.create_task(self._watch_for_the_end(backlog))
        tasks = {self._loop.create_task(self._serve(place, backlog)) for place in self._places}
        tasks.add(watching)
        try:
            waited_for = {self._finished, *tasks} - {watching}
            done, _ = await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        await asyncio.wait(tasks)
        for each in done:
            each.result()  # raises what went wrong, which would be a bug

    async def _watch_for_the_end(self, backlog: Spool) -> None:
        """The end may come while nobody is connected who would meet it."""
        await backlog.ended.wait()
        self._look_for_the_end(backlog)

    def _look_for_the_end(self, backlog: Spool) -> None:
        if not self._finished.done() and backlog.is_at_end():
            self._finished.set_result(None)

    async def _serve(self, place: Place, backlog: Spool) -> None:
        """Send to one place, over as many connections as that takes."""
        while True:
            assert place.fifo
            pushing = self._loop.create_task(self._feed(place.fifo, backlog))
            try:
                waited_for = {pushing, place.fifo.lost}
                await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            finally:
                pushing.cancel()
            await asyncio.wait({pushing})
            if not pushing.cancelled():
                pushing.result()  # raises what went wrong, which would be a bug
            self._settle(place, backlog)
            self._look_for_the_end(backlog)
            await asyncio.sleep(RECONNECT_MS / 1000)
            await self._open_again(place)

    async def _feed(self, fifo: Fifo, backlog: Spool) -> None:
        """Send chunks to one collector."""
        await fifo.met_collector.wait()  # a peer that is none would take libzmq's queue with it
        self.met_collector.set()
        self.ever_met = True
        while True:
            chunk = await backlog.get()
            if not chunk:
                self._look_for_the_end(backlog)
                self._more.clear()
                await self._more.wait()
                continue
            fifo.chunk = chunk
            messages = chunk.messages()
            left = iter(messages)
            while not fifo.send(left, chunk.size / len(messages)):
                refused = len(messages) - operator.length_hint(left) - 1
                await fifo.send_later(messages[refused])
            fifo.chunk = None
            events, size = chunk.count(), chunk.size
            fifo.departures.add(file_of(chunk), chunk.number, events, size, messages)
            backlog.sent += events
            backlog.done(chunk, len(messages))
            self._look_again_s = LOOK_AGAIN_S
            self._look_soon()

    async def _open_again(self, place: Place) -> None:
        while not place.fifo:
            try:
                await self._open(place)
            except OSError as error:
                if place not in self._told:
                    say(f"{error.filename}: {error.strerror}; going on, it is tried again")
                self._told.add(place)
                await asyncio.sleep(RECONNECT_MAX_MS / 1000)
        self._told.discard(place)

    # what has left

    def _look_soon(self) -> None:
        """In the next turn of the event loop: many at once."""
        if self._look is None or isinstance(self._look, asyncio.TimerHandle):
            if self._look:
                self._look.cancel()
            self._look = self._loop.call_soon(self.look)

    def look(self, thoroughly: bool = False) -> None:
        """Let the rows go of what has left."""
        if self._look:
            self._look.cancel()
        self._look = None
        if not self._backlog:
            return
        waits = False
        for fifo in self._fifos():
            self._backlog.left(fifo.left(thoroughly))
            waits = waits or fifo.is_waiting()
        if waits:
            self._look = self._loop.call_later(self._look_again_s, self.look)
            self._look_again_s = min(2 * self._look_again_s, LONGEST_LOOK_S)

    def _settle(self, place: Place, backlog: Spool) -> bool:
        """The connection has ended: whether something has to be sent again."""
        fifo, place.fifo = place.fifo, None
        assert fifo
        left, rest = fifo.settle()
        backlog.left(left)
        has_more = bool(rest or fifo.chunk)
        if has_more:
            backlog.put_back(rest, fifo.chunk)
            self._more.set()
        fifo.drop()
        return has_more

    async def _hand_over(self, backlog: Spool) -> bool:
        """Let all that was sent leave this machine; whether something has to be sent again."""
        open_places = [place for place in self._places if place.fifo]
        fifos = self._fifos()
        await asyncio.gather(*(fifo.hand_over() for fifo in fifos))
        await self.end_context()
        await asyncio.gather(*(fifo.leave_kernel() for fifo in fifos))
        settled = [self._settle(place, backlog) for place in open_places]
        return any(settled)

    # what is told

    @property
    def connections(self) -> dict[int, tuple[str, asyncio.TimerHandle]]:
        """Those that stand, of all."""
        return dict(enumerate(each for fifo in self._fifos() for each in fifo.connections.values()))

    @connections.setter
    def connections(self, _: Any) -> None:
        """Each socket keeps its own."""

    def held(self, sent: int) -> int:
        """How many of the last `sent` events may still be on this machine."""
        return self._backlog.unsure if self._backlog else 0

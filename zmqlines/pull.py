"""The collector's PULL socket, to wait for without polling, and who is connected to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import struct

import zmq

import zmqpush
from zmqlines.curve import Curve
from zmqlines.door import Door
from zmqlines.peers import Peers

FIRST_FRAMES = 10  # that are taken before the first look at their size
REFILL_S = 0.05  # in which libzmq brings what the kernel still has
ENOUGH_BYTES = 1024 * 1024  # after which no more are taken
MOST_NEWS = 1000  # of who is connected, in one turn of the event loop: as many as libzmq keeps
EVENT = struct.Struct("=Hi")  # of the monitor: which, and a value (zmq_socket_monitor(3))
UP = zmq.EVENT_ACCEPTED | zmq.EVENT_CONNECTED
DOWN = zmq.EVENT_DISCONNECTED
FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
OTHERS = zmq.EVENT_LISTENING | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_ACCEPT_FAILED
WATCHED = UP | DOWN | FAILED | OTHERS


class Pull:
    """The PULL socket, to wait for without polling."""

    KIND = zmq.PULL
    FITTING = "a PUSH socket of ZeroMQ 4 or newer"
    MISFITS = "zmqpush.py --ack (then use --ack here as well), a PUB socket, one with CURVE"

    def __init__(
        self,
        bind: list[str],
        connect: list[str],
        curve: Curve | None = None,
        rcvhwm: int = 1000,
        max_message: int = 0,
    ) -> None:
        """Bind and connect. Raises OSError, whose `filename` is the endpoint.

        libzmq takes up to `rcvhwm` messages a connection ahead (0: any number), and cuts off who
        sends a frame of more than `max_message` bytes (0: of any size).
        """
        pull: zmq.Socket[bytes] = zmq.Context.instance().socket(self.KIND)
        self._pull = pull
        self.bound: dict[str, str] = {}  # endpoints as they were asked for, and as they are
        self._told: set[str] = set()  # what was said once
        self.peers = Peers()
        self._misfits = 0  # whose handshake has failed for a reason that was told
        self._curve = curve
        self._door = Door()
        pull.setsockopt(zmq.BACKLOG, self._door.queue)
        # Whatever does not say that it is ZeroMQ is a peer of ZeroMQ 2 to libzmq, and random bytes
        # are messages; with this it turns away who makes no handshake. Nobody need answer for it.
        pull.setsockopt(zmq.ZAP_DOMAIN, b"zmqpull")
        self._monitor = pull.get_monitor_socket(WATCHED)
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._on_monitor)
        pull.setsockopt(zmq.RCVHWM, rcvhwm)
        pull.setsockopt(zmq.MAXMSGSIZE, max_message or -1)
        pull.setsockopt(zmq.LINGER, 0)
        pull.setsockopt(zmq.TCP_KEEPALIVE, 1)
        pull.setsockopt(zmq.TCP_KEEPALIVE_IDLE, zmqpush.KEEPALIVE_AFTER_S)
        pull.setsockopt(zmq.RECONNECT_IVL, zmqpush.RECONNECT_MS)
        pull.setsockopt(zmq.RECONNECT_IVL_MAX, zmqpush.RECONNECT_MAX_MS)
        if curve and bind:
            curve.serve(pull)
        for endpoint in bind:
            pull.setsockopt(zmq.IPV6, int("[" in endpoint or "*:" in endpoint))
            try:
                zmqpush.refuse_to_displace(endpoint)
                pull.bind(endpoint)
            except (OSError, zmq.ZMQError) as error:
                why = zmq.strerror(error.errno or errno.EINVAL)
                raise OSError(error.errno, why, endpoint) from None
            self.bound[endpoint] = pull.getsockopt_string(zmq.LAST_ENDPOINT)
        for endpoint in connect:
            self._connect_to(endpoint)
        self._recv = super(zmq.Socket, pull).recv  # of the backend: no checks, half the time
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(pull.fileno(), self._on_event)
        self._on_monitor()  # its descriptor tells of news to who has found nothing before

    def _connect_to(self, endpoint: str) -> None:
        self._pull.setsockopt(zmq.IPV6, int("[" in endpoint))  # of a name, IPv4 addresses
        if self._curve:
            self._curve.join(self._pull, endpoint)
        self._pull.connect(endpoint)

    def turned_away(self) -> int:
        """So many peers, at least, did not fit, or had no key that we know."""
        return self.peers.turned_away + self._misfits

    def take(self, most: int) -> list[bytes]:
        """The frames that are there, up to `most`; each is for itself.

        Before each look at their size as many again are taken: that makes few looks at small ones,
        and of large ones not many more than enough.
        """
        frames: list[bytes] = []
        with contextlib.suppress(zmq.Again):
            while len(frames) < most and sum(map(len, frames)) < ENOUGH_BYTES:
                some = min(len(frames) or FIRST_FRAMES, most - len(frames))
                frames.extend(map(self._recv, itertools.repeat(zmq.DONTWAIT, some)))
        return frames

    def has_more(self) -> bool:
        """Whether libzmq has frames that were not taken."""
        return bool(self._pull.poll(0))

    async def has_soon(self) -> bool:
        """Whether there are frames in a moment: libzmq takes ahead only so many (ZMQ_RCVHWM)."""
        self._news.clear()
        if not self.has_more():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), REFILL_S)
        return self.has_more()

    async def wait(self) -> None:
        """Return when there may be more, or somebody called `announce()`."""
        self._news.clear()
        # The descriptor tells of a change only: of what came before, this does (zmq_getsockopt(3)).
        if self._pull.poll(0):
            await asyncio.sleep(0)  # it may be nonsense without end: let signals have their turn
        else:
            await self._news.wait()

    def announce(self) -> None:
        """Wake who waits."""
        self._news.set()

    def _on_event(self) -> None:
        self._pull.getsockopt(zmq.EVENTS)  # until somebody asks, the descriptor stays readable
        self.announce()

    def say_once(self, kind: str, text: str) -> None:
        """Say it unless something of that kind was said before."""
        if kind not in self._told:
            zmqpush.say(text)
        self._told.add(kind)

    # who is connected

    def _on_monitor(self) -> None:
        failing = False
        with contextlib.suppress(zmq.Again):
            # Where nobody more can be accepted, libzmq may say so faster than we hear it.
            for _ in range(MOST_NEWS):
                data, endpoint = self._monitor.recv_multipart(zmq.DONTWAIT)
                event, value = EVENT.unpack(data)
                failing = failing or event == zmq.EVENT_ACCEPT_FAILED
                self._note(event, value)
                if self._curve:
                    self._curve.heard(event, value, os.fsdecode(endpoint))
                    self._leave_who_refuses(event, os.fsdecode(endpoint))
            asyncio.get_running_loop().call_soon(self._on_monitor)
        if self.peers.turned_away and self._curve:
            self._curve.say_misfit()
        elif self.peers.turned_away:
            self.say_once(
                "misfit",
                f"a peer has gone without a handshake: senders must be {self.FITTING}; this may "
                f"have been {self.MISFITS}, or something else altogether",
            )
        if failing and not self._door.is_shut:
            self._door.shut()
            self.say_once(
                "full",
                f"{len(self.peers.standing)} peers are connected, and no more than "
                f"{self._door.most} files may be open (ulimit -n): others have to wait",
            )

    def _note(self, event: int, value: int) -> None:
        if event & UP:
            self.peers.came(value)
        elif event & DOWN:
            self.peers.went(value)
            self._door.open_if_there_is_room()
        elif event == zmq.EVENT_LISTENING:
            self._door.listens(value)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.peers.greeted()
        elif event & FAILED:
            # Who finds first that we do not fit just leaves (EPIPE), as one does who only looks.
            if (event, value) != (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, errno.EPIPE):
                self.peers.failed()
            self._misfits += event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            if value == zmqpush.MISMATCH and not self._curve:
                self.say_once(
                    "mechanism", "a peer has gone without a handshake: it wants CURVE or a password"
                )

    def _leave_who_refuses(self, event: int, endpoint: str) -> None:
        """A sender that is connected to has cut us off: come back after a while."""
        assert self._curve
        refusal = self._curve.refusal_of(endpoint) if event == zmq.EVENT_DISCONNECTED else None
        if refusal:
            self._pull.disconnect(endpoint)
            asyncio.get_running_loop().call_later(refusal.pause_s(), self._connect_to, endpoint)

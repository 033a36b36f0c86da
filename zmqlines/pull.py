"""The collector's PULL socket, to wait for without polling."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools

import zmq

import zmqpush
from zmqlines.binding import refuse_to_displace

FIRST_FRAMES = 10  # that are taken before the first look at their size
ENOUGH_BYTES = 1024 * 1024  # after which no more are taken


class Pull:
    """The PULL socket, to wait for without polling."""

    KIND = zmq.PULL

    def __init__(self, bind: list[str], connect: list[str]) -> None:
        """Bind and connect. Raises OSError, whose `filename` is the endpoint."""
        pull: zmq.Socket[bytes] = zmq.Context.instance().socket(self.KIND)
        pull.setsockopt(zmq.LINGER, 0)
        pull.setsockopt(zmq.TCP_KEEPALIVE, 1)
        pull.setsockopt(zmq.TCP_KEEPALIVE_IDLE, zmqpush.KEEPALIVE_AFTER_S)
        pull.setsockopt(zmq.RECONNECT_IVL, zmqpush.RECONNECT_MS)
        pull.setsockopt(zmq.RECONNECT_IVL_MAX, zmqpush.RECONNECT_MAX_MS)
        for endpoint in bind:
            pull.setsockopt(zmq.IPV6, int("[" in endpoint or "*:" in endpoint))
            try:
                refuse_to_displace(endpoint)
                pull.bind(endpoint)
            except (OSError, zmq.ZMQError) as error:
                why = zmq.strerror(error.errno or errno.EINVAL)
                raise OSError(error.errno, why, endpoint) from None
            if endpoint.endswith(":*"):
                zmqpush.say(f"bound to {pull.getsockopt_string(zmq.LAST_ENDPOINT)}")
        for endpoint in connect:
            pull.setsockopt(zmq.IPV6, int("[" in endpoint))  # of a name, IPv4 addresses
            pull.connect(endpoint)
        self._pull = pull
        self._recv = super(zmq.Socket, pull).recv  # of the backend: no checks, half the time
        self._told = False
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(pull.fileno(), self._on_event)

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

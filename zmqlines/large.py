"""Large messages: a bound in bytes on what libzmq holds of them. Its own watermark counts messages.

libzmq lets go of a message when the kernel has it. It tells of those only that it was given without
copying, which costs more than to copy. So one message in about a megabyte goes that way, as a mark
that stands for those before it, too. Which one, chance decides: where collectors take turns, it
must not always be the same one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import weakref

import zmq

from zmqlines.descriptors import free_descriptors

MOST_HELD = 4 * 1024 * 1024  # bytes; with what no mark stands for yet, 6 MB
MARK_EVERY = 1024 * 1024  # bytes, on average
OPEN_FILES = 16  # that pyzmq needs to hear of what libzmq has let go


class Mark(bytearray):
    """A message that libzmq was given without copying; unlike bytes, it takes a weak reference."""


class Held:
    """What libzmq holds of the large messages of one socket."""

    def __init__(self, push: zmq.Socket[bytes]) -> None:
        self._send = super(zmq.Socket, push).send  # of the backend
        push.copy_threshold = 0  # what is not to be copied is not
        self._loop = asyncio.get_running_loop()
        self._size = 0  # bytes that the marks stand for which libzmq has
        self._unmarked = 0  # bytes since the last mark
        self._next_mark = 0 if free_descriptors() > OPEN_FILES else math.inf
        self._gone = asyncio.Event()

    def send(self, message: bytes) -> None:
        """Hand it to libzmq. Raises zmq.Again where that has no room, or holds too much."""
        if self._size >= MOST_HELD:
            raise zmq.Again
        self._unmarked += len(message)
        if self._unmarked < self._next_mark:
            self._send(message)
            return
        size, self._unmarked = self._unmarked, 0
        self._next_mark = random.randrange(2 * MARK_EVERY)
        self._size += size
        mark = Mark(message)
        weakref.finalize(mark, self._is_gone, size).atexit = False
        self._send(mark, copy=False)

    async def send_later(self, message: bytes) -> bool:
        """Wait until libzmq holds less than it may; whether it has taken `message` then."""
        while self._size >= MOST_HELD:
            self._gone.clear()
            await self._gone.wait()
        with contextlib.suppress(zmq.Again):
            self.send(message)
            return True
        return False

    def _is_gone(self, size: int) -> None:
        """libzmq has let go of a mark. Called on a thread of pyzmq's."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._less, size)

    def _less(self, size: int) -> None:
        self._size -= size
        self._gone.set()

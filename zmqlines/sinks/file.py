"""Lines into a file descriptor: standard output, a pipe, a file at a path."""

from __future__ import annotations

import argparse
import asyncio
import errno
import itertools
import os
import select
import stat
import sys
from collections.abc import Callable
from typing import Any

import zmqpush
from zmqlines.ack import Offer, sort_out
from zmqlines.sinks.contract import Sink, Trouble

PIPE_BUF = 4096  # bytes that a pipe takes whole if it takes any (pipe(7))
MOST_RECORDS = 10_000  # of shippers that are kept in memory


def add_options(option: Callable[..., Any]) -> None:
    """Those of this sink."""
    option(
        "-o",
        "--output",
        metavar="FILE",
        default=[],
        help="append to FILE; SIGHUP opens it anew; repeatable",
    )


def check(options: argparse.Namespace) -> None:
    """Any of them go together."""


def sinks(options: argparse.Namespace) -> list[Sink]:
    """Those that were asked for. Raises ValueError."""
    try:
        return list(map(File, options.output))
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None


class Descriptor(Sink):
    """Lines into a file descriptor."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self._descriptor = descriptor
        self._data = b""  # lines of which those from _at on are not written yet
        self._at = 0
        self._records: dict[bytes, int] = {}  # of shippers, see Offer
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._at_once = sys.maxsize if is_file else PIPE_BUF  # bytes that cannot block

    async def write(self, events: list[bytes]) -> None:
        """Write a line for each of `events`; after Trouble, what is missing of them."""
        if not self._data:
            self._data, self._at = b"\n".join([*events, b""]), 0
        while self._at < len(self._data):
            await self._writable()
            try:
                self._at += os.write(
                    self._descriptor, memoryview(self._data)[self._at :][: self._at_once]
                )
            except BrokenPipeError:
                raise
            except OSError as error:
                raise Trouble(error.strerror) from None
        self._data = b""

    async def keep(self, offers: list[Offer]) -> dict[bytes, int]:
        """Write what is new in `offers`; returns the shippers' records. After Trouble, the same.

        They are in memory: a shipper that begins anew with another collector repeats itself here.
        """
        taken, records = sort_out(offers, self._records.get)
        events = list(itertools.chain.from_iterable(offer.events for offer in taken))
        if events:
            await self.write(events)
            await self._sync()
        for offer in taken:
            offer.is_new = True
        for shipper, record in records.items():
            self._records.pop(shipper, None)
            self._records[shipper] = record  # the last one is the one that was here last
        while len(self._records) > MOST_RECORDS:
            del self._records[next(iter(self._records))]
        return records

    async def forget(self, shippers: list[bytes]) -> None:
        """Keep no record of them."""
        for shipper in shippers:
            self._records.pop(shipper, None)

    async def _sync(self) -> None:
        """Bring what is written to the disk, where there is one; meanwhile others have a turn."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, os.fsync, self._descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EROFS):  # a pipe, a terminal
                raise Trouble(error.strerror) from None

    async def _writable(self) -> None:
        """Wait, without blocking, until a pipe or a terminal takes something."""
        poll = select.poll()  # select() refuses descriptors from 1024 up
        poll.register(self._descriptor, select.POLLOUT)
        if self._at_once > PIPE_BUF or poll.poll(0):
            return
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        loop.add_writer(self._descriptor, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(self._descriptor)


class File(Descriptor):
    """Lines appended to the file at a path."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        super().__init__(self._open(path), path)
        self._syncing = False
        self._was_renamed = False  # while it was synced

    @staticmethod
    def _open(path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    async def write(self, events: list[bytes]) -> None:
        """Write a line for each of `events`; after Trouble, what is missing of them."""
        if self._data[self._at - 1 : self._at] in (b"", b"\n"):  # the next byte begins a line
            self._end_line()
        await super().write(events)

    def _end_line(self) -> None:
        """End the last line of the file: somebody was killed in the middle of it."""
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) not in (b"", b"\n"):
            try:
                os.write(self._descriptor, b"\n")
            except OSError as error:
                raise Trouble(error.strerror) from None

    async def _sync(self) -> None:
        self._syncing = True
        try:
            await super()._sync()
        finally:
            self._syncing = False
            if self._was_renamed:
                self.reopen()

    def reopen(self) -> None:
        """Go on in the file that is at the path now: the other was renamed."""
        self._was_renamed = self._syncing  # what is being synced is not yet known to be safe
        if self._syncing or self._at_once == PIPE_BUF:  # nobody rotates a FIFO
            return
        try:
            if self._data:  # a part of what will be answered for lies in the old one
                os.fsync(self._descriptor)
            descriptor = self._open(self.name)
        except OSError as error:
            zmqpush.say(f"{self.name}: {error.strerror}; going on in the old file")
            return
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._at = self._data.rfind(b"\n", 0, self._at) + 1  # of a line cut in two, all of it

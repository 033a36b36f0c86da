"""Lines into a file descriptor: standard output, a pipe, a file at a path."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import re
import select
import stat
import sys
from collections.abc import Callable
from typing import Any

import zmqpush
from zmqlines.ack import Offer, sort_out
from zmqlines.sinks.contract import Sink, Trouble, identity

STANDARD_OUTPUT = "standard output"
# In UTF-8: DEL, and the controls of which a terminal takes one for ESC and `[` (ECMA-48). The
# others JSON has escaped.
TERMINAL_CONTROLS = re.compile(b"\x7f|\xc2[\x80-\x9f]")
PIPE_BUF = 4096  # bytes that a pipe takes whole if it takes any (pipe(7))
MOST_RECORDS = 10_000  # of shippers that are kept in memory


def add_options(option: Callable[..., Any]) -> None:
    """Those of this sink."""
    option(
        "-o",
        "--output",
        metavar="FILE",
        default=[],
        help="append to FILE, - for standard output; SIGHUP opens it anew; repeatable",
    )


def check(options: argparse.Namespace) -> None:
    """Any of them go together."""


def sinks(options: argparse.Namespace) -> list[Sink]:
    """Those that were asked for. Raises ValueError."""
    try:
        return list(map(open_output, options.output))
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None


def open_output(name: str) -> Descriptor:
    """What is meant by `name`. Raises OSError."""
    if name == "-":
        return Descriptor(1, STANDARD_OUTPUT)
    descriptor = descriptor_of(name)
    return File(name) if descriptor is None else Descriptor(descriptor, name)


def descriptor_of(path: str) -> int | None:
    """The one that we have at `path`, such as /dev/stdout: a pipe, a socket or a terminal.

    Opened anew, a pipe would have us as a reader, too, and never tell that all others have gone.
    """
    file = identity(path)
    if not file or stat.S_ISREG(os.stat(path).st_mode):
        return None
    for descriptor in sorted(map(int, os.listdir("/proc/self/fd"))):
        if descriptor and identity(f"/proc/self/fd/{descriptor}") == file:
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            if flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_PATH:
                return descriptor
    return None


def text_for_terminal(data: bytes) -> bytes:
    """The same JSON, without a character that a terminal acts upon."""
    return TERMINAL_CONTROLS.sub(lambda found: b"\\u00%02x" % found[0][-1], data)


class Descriptor(Sink):
    """Lines into a file descriptor."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self._descriptor = descriptor
        self._data = b""  # lines of which those from _at on are not written yet
        self._at = 0
        self._records: dict[bytes, int] = {}  # of shippers, see Offer
        file = os.fstat(descriptor)
        self._is_file = stat.S_ISREG(file.st_mode)
        self._is_terminal = os.isatty(descriptor)
        if self._is_terminal:  # a write of more than there is room for would block; see offer()
            with contextlib.suppress(OSError):  # it belongs to another user
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._descriptor = os.open(f"/proc/self/fd/{descriptor}", flags)
        self._had_name = bool(file.st_nlink)
        self._at_once = sys.maxsize if self._is_file else PIPE_BUF  # bytes that cannot block

    async def write(self, events: list[bytes]) -> None:
        """Write a line for each of `events`; after Trouble, what is missing of them.

        Raises BrokenPipeError where nobody is there any more to read them.
        """
        if not self._data:
            self._data, self._at = b"\n".join([*events, b""]), 0
            if self._is_terminal:
                self._data = text_for_terminal(self._data)
        if self._is_removed():
            raise Trouble("the file was removed")
        while self._at < len(self._data):
            await self._writable()
            try:
                self._at += os.write(
                    self._descriptor, memoryview(self._data)[self._at :][: self._at_once]
                )
            except BrokenPipeError:
                raise
            except BlockingIOError:  # of a terminal that had room for less than one character
                await asyncio.sleep(0)
            except OSError as error:
                if self._is_terminal and error.errno == errno.EIO:  # it has hung up (tty_ioctl(4))
                    raise BrokenPipeError(error.errno, error.strerror) from None
                raise Trouble(error.strerror) from None
        if self._is_removed():
            self._at = 0
            raise Trouble("the file was removed")
        self._data = b""

    async def write_through(self, events: list[bytes]) -> None:
        """Return when they are on the disk. Raises what write() raises."""
        while True:
            await self.write(events)
            await self._sync()
            if not self._is_removed():
                return

    def drop(self) -> None:
        """What is not written yet of what was to be written, leave."""
        self._data = b""

    def _is_removed(self) -> bool:
        """Whether it is a file that nobody can see any more. One that had no name is as wanted."""
        return self._is_file and self._had_name and not os.fstat(self._descriptor).st_nlink

    async def keep(self, offers: list[Offer]) -> dict[bytes, int]:
        """Write what is new in `offers`; returns the shippers' records. After Trouble, the same.

        They are in memory: a shipper that begins anew with another collector repeats itself here.
        """
        taken, records = sort_out(offers, self._records.get)
        events = list(itertools.chain.from_iterable(offer.events for offer in taken))
        if events:
            await self.write_through(events)
        for offer in taken:
            offer.is_new = True
        # Of one that is new here it cannot tell: an earlier collector may have written them.
        known = {shipper: self._records.get(shipper) or new for shipper, new in records.items()}
        self.say_gaps(offers, known)
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

    def reopen(self) -> None:
        """At SIGHUP: raises BrokenPipeError where it is a terminal that has hung up."""
        poll = select.poll()
        poll.register(self._descriptor, 0)
        if self._is_terminal and poll.poll(0):
            raise BrokenPipeError(errno.EIO, "the terminal has hung up")

    async def _sync(self) -> None:
        """Bring what is written to the disk, where there is one; meanwhile others have a turn."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._fsync)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EROFS):  # a pipe, a terminal
                raise Trouble(error.strerror) from None

    def _fsync(self) -> None:
        os.fsync(self._descriptor)

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
    """Lines appended to the file at a path; where that is taken away, to a new one."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self._path = path
        self._is_new = False  # its name is perhaps not on the disk
        super().__init__(self._open(), path)
        self._identity = identity(f"/proc/self/fd/{self._descriptor}")
        self._is_fifo = stat.S_ISFIFO(os.fstat(self._descriptor).st_mode)
        self._syncing = False
        self._was_renamed = False  # while it was synced
        self._said_old = False  # that it cannot be opened anew

    def _open(self) -> int:
        self._is_new = self._is_new or not os.path.exists(self._path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
        return os.open(self._path, flags, 0o640)

    def _fsync(self) -> None:
        super()._fsync()
        if self._is_new:  # a file has lost its name, and so all, if its folder was not synced
            folder = os.open(os.path.dirname(os.path.realpath(self._path)), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._is_new = False

    async def write(self, events: list[bytes]) -> None:
        """Write a line for each of `events`; after Trouble, what is missing of them."""
        while True:
            self._look()
            if self._data[self._at - 1 : self._at] in (b"", b"\n"):  # the next byte begins a line
                self._end_line()
            try:
                await super().write(events)
                return
            except Trouble:
                if not self._is_removed() or identity(self._path) == self._identity:
                    raise

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

    def _look(self) -> None:
        """Go on in a new file where somebody has taken the old one away. Raises Trouble."""
        if not (self._is_file or self._is_fifo) or identity(self._path) == self._identity:
            return
        try:
            if self._is_fifo and not os.path.lexists(self._path):
                os.mkfifo(self._path, 0o640)
            self._renew()
        except OSError as error:
            if self._is_removed():
                raise Trouble(error.strerror) from None
            self._say_old(error)
        else:
            zmqpush.say(f"{self.name}: it was removed or renamed; going on in a new file")

    def reopen(self) -> None:
        """Go on in the file that is at the path now: the other was renamed."""
        self._was_renamed = self._syncing  # what is being synced is not yet known to be safe
        if self._syncing or not self._is_file:  # nobody rotates a FIFO
            return
        self._said_old = False
        try:
            self._renew()
        except OSError as error:
            self._say_old(error)

    def _renew(self) -> None:
        """Open the path anew. Raises OSError."""
        removed = self._is_removed()
        if self._data and self._is_file and not removed:
            os.fsync(self._descriptor)  # a part of what will be answered for lies in the old one
        descriptor = self._open()
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._identity = identity(f"/proc/self/fd/{descriptor}")
        self._said_old = False
        # Of a line cut in two, all of it is written; of what nobody can see, everything.
        self._at = 0 if removed else self._data.rfind(b"\n", 0, self._at) + 1

    def _say_old(self, error: OSError) -> None:
        if not self._said_old:
            zmqpush.say(f"{self.name}: {error.strerror}; going on in the old file")
        self._said_old = True

    def close(self) -> None:
        """Each write is whole, but for what could not be written."""
        os.close(self._descriptor)

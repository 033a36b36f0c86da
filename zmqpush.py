#!/usr/bin/env python3
"""Push every line of standard input, as a Logstash JSON event, out of a ZeroMQ PUSH socket.

The pattern is the pipeline of the ZeroMQ Guide. Two coroutines and an unbounded queue:

    stdin --epoll--> stdin_queuer() --> asyncio.Queue --> zmq_pusher() --> PUSH --> collector
                     reads a chunk      of chunks         formats a chunk,
                     of whole lines                       sends its messages

The unit inside is the chunk, the whole lines of one read; the unit on the wire is one event a
message. Nothing is done a line at a time that can be done a chunk at a time: that is where the
speed comes from.

This file is complete in itself. What goes beyond it is a part, a file in the folder zmqlines/
beside it, loaded by `part()` when an option asks for it. After that one place, the sections stand
in the order of the data: what an event is, input, backlog, output, then how it runs and ends, and
the command line. A part that takes the place of something is a subclass: of EventFormat
(--format json), of Backlog (--spool), of Link (--ack). --omprog has a coroutine of its own instead
of stdin_queuer.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from typing import Any, ClassVar, NoReturn, Protocol


def offer(data: bytes, descriptor: int) -> bool:
    """Write `data` as far as there is room for it now; whether that was all. Raises OSError.

    What only tells must not stop what works, and O_NONBLOCK would be shared with others. A pipe
    that poll(2) finds writable takes PIPE_BUF bytes. A terminal may take fewer, so it is opened
    anew, with that flag.
    """
    anew = -1
    with contextlib.suppress(OSError):  # it belongs to another user
        if os.isatty(descriptor):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = anew = os.open(f"/proc/self/fd/{descriptor}", flags)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    try:
        while data and poll.poll(0):
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]
    except BlockingIOError:
        return False
    finally:
        if anew >= 0:
            os.close(anew)
    return not data


class Voice:
    """What is said on stderr. Where that is closed or full, there is nobody to tell."""

    def __init__(self) -> None:
        self._untold = 0  # lines

    def say(self, text: str) -> None:
        """Write one line, or count it. Controls in it, such as ESC, become visible text."""
        name = os.path.basename(sys.argv[0])
        seen = [c if c.isprintable() else c.encode("unicode_escape").decode() for c in text]
        text = f"{name}: {''.join(seen)}\n"
        if self._untold:
            text = f"{name}: {self._untold} lines could not be told\n{text}"
        with contextlib.suppress(OSError):
            told = offer(text.encode(errors="backslashreplace"), 2)
            self._untold = 0 if told else self._untold + 1


say = Voice().say


def say_state(text: str) -> None:
    """Say how things are now; with the time, unless it is on a terminal."""
    say(text if os.isatty(2) else f"{iso8601(time.time_ns() // 1_000_000)} {text}")


def fail(text: str) -> NoReturn:
    """End with one line on stderr and status 2: what was asked for cannot be."""
    say(text)
    raise SystemExit(2)


if sys.platform != "linux":
    fail("this program needs Linux (epoll)")

# What is sent while the imports run waits until there is somebody to act on it.
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

import argparse
import asyncio
import asyncio.unix_events
import codecs
import collections
import errno
import fcntl
import functools
import importlib.machinery
import importlib.util
import json
import math
import operator
import re
import socket
import stat
import termios
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

try:
    import zmq
    import zmq.backend

    # aiozmq 1.0.0 imports this name, which Python 3.14 has dropped, and does not use it here.
    if not hasattr(asyncio.unix_events, "SafeChildWatcher"):
        asyncio.unix_events.SafeChildWatcher = object  # type: ignore[misc, assignment, unused-ignore]
    import aiozmq
except ImportError as missing:
    fail(f"{missing}: install pyzmq and aiozmq (on Debian python3-zmq and python3-aiozmq)")

__version__ = "1.1.0"

sys.modules.setdefault("zmqpush", sys.modules[__name__])  # run as a script, it is that module, too

DEFAULT_ENDPOINT = "tcp://127.0.0.1:2120"  # the port of Logstash's zeromq input
READ_SIZE = 256 * 1024  # bytes asked for at once
CHUNK_SIZE = 64 * 1024  # bytes; smaller chunks that wait are put together up to this size
ENCODED_SIZE = 4 * 1024 * 1024  # bytes of messages, about which a chunk may make
LARGE_BLOCK = 8 * 1024 * 1024  # bytes
WORTH_TRIMMING = 32 * 1024 * 1024  # bytes of backlog, after which memory is given back
FILE_AHEAD = 4 * 1024 * 1024  # bytes to read ahead in a regular file: it keeps the rest for us
F_SETPIPE_SZ, F_GETPIPE_SZ = 1031, 1032  # fcntl(2); Python 3.9 has no names for them
PIPE_SIZE = 1024 * 1024  # bytes, fs.pipe-max-size as Linux comes
LONGEST_CHARACTER = 4  # bytes, in UTF-8 (RFC 3629)
GRACE_AFTER_SIGNAL_S = 2.0
LAST_HANDOVER_S = 0.5  # at least this is left for delivery when reading on has used up the grace
NOTICE_AFTER_S = 1.0  # how long the end of input waits for a collector before we say so
ALONE_AFTER_S = 5.0  # how long there is no collector before we say so
AGAIN_AFTER_S = 10.0  # before that is said again, and then twice as long each time
KEEPALIVE_AFTER_S = 60
LARGE = 4096  # bytes of a message: what libzmq holds of such is bounded (zmqlines/large.py)
OUT_BATCH_SIZE = 8192  # bytes that libzmq writes at once, beyond what it counts as queued
HANDSHAKE_S = 31.0  # a second more than ZMQ_HANDSHAKE_IVL
UP = zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED  # what libzmq's monitor tells
HANDSHAKE = 0x7800  # that one has succeeded, or failed, for whatever reason
MISMATCH = zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
RECONNECT_MS = 100
RECONNECT_MAX_MS = 2000
MOST_CUTS = 3  # in the handshake, after which to come back more and more seldom
SHIPPER_SIZE = 16  # bytes of the id that a process, or a file of a spool, has
SHORTEST_INTERVAL_S = 0.001
A_FEW_WAKES = 8  # by the source of standard input, after which it may be worth to let it gather
OPEN_FILES = 20  # with standard descriptors open; each connection takes one more
LARGEST_INT = 2**31 - 1  # of C, which libzmq's options have


# ---- parts ------------------------------------------------------------------------------------


def find_house() -> None:
    """Make `zmqlines` the folder beside this file, where links lead to, and no other on the path.

    Raises ImportError, which says what is missing.
    """
    here = os.path.dirname(os.path.realpath(__file__))
    house = os.path.join(here, "zmqlines")
    found = sys.modules.get("zmqlines")
    if not found or os.path.dirname(found.__file__ or "") != house:
        spec = importlib.machinery.PathFinder.find_spec("zmqlines", [here])
        if not spec or not spec.loader or not spec.origin:
            raise ImportError(f"the folder zmqlines is needed beside {here}/zmqpush.py")
        for name in [name for name in sys.modules if name.partition(".")[0] == "zmqlines"]:
            del sys.modules[name]
        found = sys.modules["zmqlines"] = importlib.util.module_from_spec(spec)
        if hasattr(spec.loader, "exec_module"):
            spec.loader.exec_module(found)
        else:  # of a zip, before Python 3.10
            found = spec.loader.load_module("zmqlines")
    if found.__version__ != __version__:
        raise ImportError(f"{house} is of version {found.__version__}, this is {__version__}")


def part(name: str) -> Any:
    """The module `zmqlines.NAME`. Raises ImportError, which says what is missing."""
    find_house()
    return importlib.import_module(f"zmqlines.{name}")


# ---- event ------------------------------------------------------------------------------------

# RFC 8259, section 7: what must be escaped in a string. LF ends our lines and is left alone.
CONTROL_ESCAPES = {code: json.dumps(chr(code))[1:-1].encode() for code in range(0x20)}
del CONTROL_ESCAPES[ord("\n")]
ALL_BUT_CONTROLS = bytes(code for code in range(256) if code not in CONTROL_ESCAPES)


def json_escaped(lines: bytes) -> bytes:
    """Make `lines` the text of JSON strings, all at once, in valid UTF-8; the LFs stay.

    Bytes that are not UTF-8 become `\\xNN`, as Python's backslashreplace has it.
    """
    if not lines.isascii():
        try:
            lines.decode()
        except UnicodeDecodeError:
            lines = lines.decode(errors="backslashreplace").encode()
    lines = lines.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    for control in set(lines.translate(None, ALL_BUT_CONTROLS)):
        lines = lines.replace(bytes((control,)), CONTROL_ESCAPES[control])
    return lines


def iso8601(ms: int) -> str:
    """`ms` since the epoch as Logstash writes a time: UTC, with milliseconds."""
    return f"{datetime.fromtimestamp(ms // 1000, timezone.utc):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


class EventFormat:
    """Makes the messages of a chunk. Pure.

    A logstash event is a head, the line, and a tail that all lines of a chunk share, so that a
    chunk becomes events by replacing its LFs.
    """

    HEAD = b'{"message":"'

    def __init__(self, options: argparse.Namespace, pid: int) -> None:
        self.batch: int = options.batch  # events in a message, at most
        self.timestamps: bool = options.timestamp
        self.least_size = 2  # bytes of an event on the wire: the frame's head (RFC 23)
        members = [("type", read_text(options.logtype)), ("@pid", pid)]
        members += [("@timestamp", "")] * options.timestamp + options.field
        self._pairs = {  # of name and value, beside the message
            name: json.dumps({name: value}, ensure_ascii=False, separators=(",", ":"))[
                1:-1
            ].encode()
            for name, value in members
        }
        if options.format == "logstash":
            self.least_size += len(self.HEAD + self._tail(self._pairs))

    def messages(self, lines: bytes, read_at_ms: int) -> list[bytes]:
        """The messages that carry `lines`, each of which ends with LF."""
        return self._make(lines[:-1], self._pairs_at(read_at_ms))

    def message(self, text: bytes, read_at_ms: int) -> bytes:
        """The message that carries all of `text` as one event, with the LFs that are in it."""
        event = self._event(text, self._pairs_at(read_at_ms))
        return event if self.batch == 1 else b"[" + event + b"]"

    def _pairs_at(self, read_at_ms: int) -> dict[str, bytes]:
        if not self.timestamps:
            return self._pairs
        stamp = b'"@timestamp":"%b"' % iso8601(read_at_ms).encode()
        return {**self._pairs, "@timestamp": stamp}

    def _tail(self, pairs: dict[str, bytes]) -> bytes:
        return b'",' + b",".join(pairs.values()) + b"}"

    def _event(self, text: bytes, pairs: dict[str, bytes]) -> bytes:
        return self.HEAD + json_escaped(text).replace(b"\n", b"\\n") + self._tail(pairs)

    def _make(self, lines: bytes, pairs: dict[str, bytes]) -> list[bytes]:
        head, tail = self.HEAD, self._tail(pairs)
        text = json_escaped(lines)
        if self.batch == 1:
            events = text.replace(b"\n", tail + b"\n" + head).split(b"\n")
            events[0] = head + events[0]
            events[-1] += tail
            return events
        return self._arrays(text.split(b"\n"), head, tail)

    def _arrays(self, texts: list[bytes], head: bytes, tail: bytes) -> list[bytes]:
        between = tail + b"," + head
        starts = range(0, len(texts), self.batch)
        return [
            b"[" + head + between.join(texts[start : start + self.batch]) + tail + b"]"
            for start in starts
        ]


class RawFormat(EventFormat):
    """The lines as they are."""

    def _make(self, lines: bytes, pairs: dict[str, bytes]) -> list[bytes]:
        return lines.split(b"\n")

    def _event(self, text: bytes, pairs: dict[str, bytes]) -> bytes:
        return text


def make_format(options: argparse.Namespace, pid: int) -> EventFormat:
    """The one that was asked for."""
    if options.format == "json":
        return part("json_format").JsonFormat(options, pid)  # type: ignore[no-any-return]
    return (RawFormat if options.format == "raw" else EventFormat)(options, pid)


# ---- input ------------------------------------------------------------------------------------


def pieces(line: bytes, size: int) -> Iterator[bytes]:
    """Cut `line` into pieces of at most `size` bytes, between UTF-8 characters; joined, the line.

    Where the bytes are not UTF-8 there is no character to spare, and the cut falls at `size`.
    """
    start = 0
    while len(line) - start > size:
        end = start + size
        for lead in range(end, end - LONGEST_CHARACTER, -1):
            if line[lead] & 0xC0 != 0x80:  # not a continuation byte: a character begins here
                end = lead
                break
        yield line[start:end]
        start = end
    yield line[start:]


class LineSplitter:
    """Cuts a stream of bytes into whole lines. Pure; where the reads fell makes no difference.

    A line ends with LF or CR LF, and each comes out ended by one LF. A line of more than
    `max_line` bytes (0: no limit) comes out in pieces, each of them a line.
    """

    def __init__(self, max_line: int) -> None:
        self.cut: list[tuple[int, int, bool]] = []  # pieces that came out: at, size, is the last
        self._max_line = max_line
        self._is_open = False  # of the line that comes, pieces came out before
        self._tail: list[bytes] = []  # the beginning of a line whose end has not come yet
        self.tail_size = 0
        self._mark = codecs.BOM_UTF8  # that may stand before the first line

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream, return the lines that are whole now."""
        end = data.rfind(b"\n") + 1
        lines = b""
        self.cut = []
        if end:
            lines = b"".join([*self._tail, data[:end]])
            if self._mark:
                lines, self._mark = lines.removeprefix(self._mark), b""
            if b"\r" in lines:
                lines = lines.replace(b"\r\n", b"\n")
            if 0 < self._max_line < len(lines) or self._is_open:
                lines = self._cut(lines)
            self._tail, self.tail_size = [], 0
        if end < len(data):
            self._tail.append(data[end:])
            self.tail_size += len(data) - end
            if 0 < self._max_line < self.tail_size:
                lines += self._cut_tail(len(lines))
        return lines

    def end(self) -> bytes:
        """Return the last line, which has no line end."""
        tail = b"".join(self._tail).removeprefix(self._mark)
        self._tail, self.tail_size, self._mark, self.cut = [], 0, b"", []
        return self._cut(tail + b"\n") if tail else b""

    def _cut(self, lines: bytes) -> bytes:
        whole = lines[:-1].split(b"\n")
        if not self._is_open and (not self._max_line or max(map(len, whole)) <= self._max_line):
            return lines
        cut: list[bytes] = []
        at = 0
        for line in whole:
            cut += (some := list(pieces(line, self._max_line)))
            at = self._note(at, some, ends=True)
        return b"\n".join(cut) + b"\n"

    def _note(self, at: int, some: list[bytes], ends: bool) -> int:
        """A line, or some pieces of it, comes out at `at`; returns where the next one does."""
        is_cut = self._is_open or len(some) > ends
        for number, piece in enumerate(some, 1):
            if is_cut:
                self.cut.append((at, len(piece), ends and number == len(some)))
            at += len(piece) + 1
        self._is_open = is_cut and not ends
        return at

    def _cut_tail(self, at: int) -> bytes:
        tail = b"".join(self._tail).removeprefix(self._mark)
        self._mark = b""
        undecided = b"\r" if tail.endswith(b"\r") else b""  # half of a line end, or of the line
        *cut, rest = pieces(tail[: len(tail) - len(undecided)], self._max_line)
        self._note(at, cut, ends=False)
        self._tail = [rest + undecided]
        self.tail_size = len(self._tail[0])
        return b"".join(piece + b"\n" for piece in cut)


class Stdin:
    """Descriptor 0 as an asynchronous source of bytes, whatever it is.

    It is made non-blocking and watched by an edge-triggered epoll (epoll(7)), or read at the ticks
    of --gather. O_NONBLOCK belongs to the open file, which others may share: `close()` puts it
    back. A terminal is shared with the shell and with stdout, so that one is opened anew,
    and if that is not allowed, stays blocking and is asked before each read. epoll refuses what is
    always ready, such as a regular file, with EPERM.
    """

    def __init__(self, on_ready: Callable[[], None], gather_s: float = 0.0) -> None:
        """`on_ready` is called when there is something to read; `gather_s`: see --gather.

        Raises OSError where descriptor 0 cannot be read.
        """
        self.hook: Callable[[], bool] | None = None
        """Called at an event of a pipe; whether it has read, and used, what there was."""
        self._on_ready = on_ready
        status = os.fstat(0)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError("it is a directory")
        self._flags = fcntl.fcntl(0, fcntl.F_GETFL)
        if self._flags & os.O_ACCMODE == os.O_WRONLY:
            raise PermissionError("it is open for writing only")
        self.file_size = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.started_at = time.monotonic()
        self.taken = 0  # bytes read
        self.left = ""  # words for what was not read, when it is closed; "": nothing that we know
        self._allowance = math.inf  # bytes that may still be read
        self._ends_by = math.inf  # when it is to end
        self._mid_line = self._at_end = False
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._empty = False  # nothing to read until we are woken
        self._hung_up = False  # and nobody will wake us again
        self._unread = b""  # what was given back
        self._gather_s = gather_s
        self._gathering: Any = None  # as soon as we were woken a few times
        self._wakes = 0
        self._rest_s = 0.0  # before the next read
        self._woken = False  # by the source, or after a rest, and not by a tick
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._fd = 0
        self._terminal = os.isatty(0)
        self._pipe = stat.S_ISFIFO(status.st_mode)
        if self._terminal:
            with contextlib.suppress(OSError):
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._fd = os.open("/proc/self/fd/0", flags)
        self._epoll = select.epoll()
        self._listens = False
        try:
            self._epoll.register(self._fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        except PermissionError:
            self.always_ready = True
            return
        self.always_ready = False
        self._listen(True)
        if not self._terminal:
            fcntl.fcntl(0, fcntl.F_SETFL, self._flags | os.O_NONBLOCK)

    def close(self, unused: int = 0) -> None:
        """Put the flags of the open file back, and let go of it; may be called again.

        `unused` bytes were read of a line whose end was not. Who goes on writing into a pipe must
        learn that nobody reads it any more.
        """
        if self._epoll.closed:
            return
        self._listen(False)
        self._epoll.close()
        if not self._terminal:
            fcntl.fcntl(0, fcntl.F_SETFL, self._flags)
        elif self._fd:
            os.close(self._fd)
        nothing = os.open(os.devnull, os.O_RDONLY)
        self.left = self._words_for_left(unused)  # just before: who writes may write on until then
        os.dup2(nothing, 0)
        os.close(nothing)

    async def read(self) -> bytes:
        """Wait for input; return what is there, b"" at the end. Raises OSError."""
        while self._allowance or await self._holds_more():
            if self._empty and self._allowance == math.inf:
                await self._until_ready()
            else:
                await asyncio.sleep(0)  # there may be more: let others have their turn
            if not self._allowance:  # it was told to end meanwhile
                continue
            try:
                data = self._unread or self.read_now()
            except BlockingIOError:
                self._empty = True
                if self._ends_by < math.inf:
                    break
                continue
            except OSError as error:
                if self._terminal:  # EIO: it has hung up
                    break
                if error.errno != errno.EPIPE:
                    raise
                say("standard input was overrun, and some of it is lost; reading on")  # /dev/kmsg
                continue
            self._unread = b""
            self._allowance -= len(data)
            self._mid_line = not data.endswith(b"\n")
            self._count_wake_up()
            if self._gathering:
                self._gathering.took(data)
            return data
        return b""

    def read_now(self) -> bytes:
        """What is there, b"" at the end. Raises BlockingIOError where there is nothing; OSError."""
        if self._terminal and not select.select([self._fd], [], [], 0)[0]:
            raise BlockingIOError
        size = int(min(READ_SIZE, self._allowance))
        count = os.readv(self._fd, [self._buffer[:size]])
        self.taken += count
        self._at_end = not count
        return bytes(self._buffer[:count])

    def give_back(self, data: bytes) -> None:
        """`data` was read now, and not used: let read() return it."""
        self._unread = data

    def is_drained(self) -> None:
        """Nothing is there to read: let read() not look, but wait until that changes."""
        self._empty = not (self._hung_up or self.always_ready)

    def held(self) -> int:
        """How many bytes there are to read, in a pipe, socket or terminal (ioctl_tty(2))."""
        held = bytearray(4)  # an int
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, termios.FIONREAD, held)
            return int.from_bytes(held, sys.byteorder)
        return READ_SIZE  # others do not tell, /dev/kmsg for one: some

    def widen(self) -> None:
        """Let a pipe hold as much as a user may ask for: what fits is there all at once."""
        with contextlib.suppress(OSError):  # no pipe, or a smaller limit (pipe(7))
            if fcntl.fcntl(0, F_GETPIPE_SZ) < PIPE_SIZE:
                fcntl.fcntl(0, F_SETPIPE_SZ, PIPE_SIZE)

    def rest(self, pause_s: float) -> None:
        """Do not read for so long, if at all; what comes does not wake us."""
        if pause_s > 0 and not self.always_ready and self._allowance == math.inf:
            self._rest_s = pause_s
            self._empty = True

    def finish(self, by: float) -> None:
        """Let the input end: after what a pipe, socket or terminal holds; if it is in the middle of
        a line, when that has ended; `by` then, in the time of the event loop, at the latest.
        """
        self._ends_by = by if not (self.always_ready or self._epoll.closed) else 0.0
        self._allowance = self.held() if self._ends_by else 0
        self._allowance += len(self._unread)
        self._empty = False
        self._wake()

    async def _holds_more(self) -> bool:
        """Whether there is more to read before it ends: the end of a line, or all there can be."""
        while (left_s := self._ends_by - self._loop.time()) > 0:
            self._allowance = self.held() if self._mid_line or self._hung_up else 0
            if self._allowance or self._hung_up or self._terminal or not self._mid_line:
                break
            timer = self._loop.call_later(left_s, self._wake)
            await self._until_ready()
            timer.cancel()
        return self._allowance > 0

    def _words_for_left(self, unused: int) -> str:
        if self._at_end or self._terminal:  # typed lines are for the shell
            return ""
        if self.always_ready:
            at = self.taken if self.file_size is None else os.lseek(0, 0, os.SEEK_CUR)
            total = self.file_size or math.inf
            at -= unused
            return f"standard input was read up to byte {at} of {total}" if at < total else ""
        held = self.held()
        return f"{held} bytes of standard input came too late to be read" if held else ""

    async def _until_ready(self) -> None:
        rest_s, self._rest_s = self._rest_s, 0.0
        gathering = self._gathering
        tick_s = gathering.pause_s(self._loop.time()) if gathering and gathering.is_on else 0.0
        if rest_s or tick_s:
            self._listen(False)
            if self._ready.done():  # what came before is no reason to read sooner
                self._ready = self._loop.create_future()
            timer = self._loop.call_later(max(rest_s, tick_s), self._wake)
            await self._ready
            timer.cancel()
            if gathering:
                gathering.rested(0.0 if tick_s else rest_s)
        else:
            self._listen(True)
            await self._ready
        self._woken = not tick_s
        self._ready = self._loop.create_future()
        self._empty = False

    def _listen(self, listens: bool) -> None:
        if listens and not self._listens:
            self._loop.add_reader(self._epoll.fileno(), self._on_epoll)
        elif self._listens and not listens:
            self._loop.remove_reader(self._epoll.fileno())
        self._listens = listens

    def _on_epoll(self) -> None:
        # Of a pipe alone: its end is told again and again, that of a terminal is read once.
        if self._pipe and self.hook and not self._ready.done() and self.hook():
            return  # without data there is no event any more
        events = self._epoll.poll(0)  # to take the event is what clears the edge
        for _, event in events:
            self._hung_up |= bool(event & (select.EPOLLHUP | select.EPOLLRDHUP))
        if events or self._unread:
            self._wake()
            self._on_ready()

    def _count_wake_up(self) -> None:
        woken, self._woken = self._woken, False
        self._wakes += woken
        gathering = self._gathering
        if self._gather_s and self._wakes == A_FEW_WAKES and not gathering:
            with contextlib.suppress(ImportError):  # we are alone, and do not gather
                self._gathering = part("gathering").Gathering(self._gather_s)
        elif woken and gathering and not gathering.is_on and gathering.woken(self._loop.time()):
            self.widen()
            with contextlib.suppress(OSError):  # no pipe
                gathering.room = fcntl.fcntl(0, F_GETPIPE_SZ)

    def _wake(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)


async def stdin_queuer(stdin: Stdin, splitter: LineSplitter, backlog: Backlog) -> bool:
    """Put the lines of stdin into the backlog until they end.

    Returns whether they ended well: where reading failed, a line on stderr has said why.
    """
    complete = True
    warned = False
    marked: Callable[..., Any] = lambda lines, cut: [(lines, None)]  # noqa: E731

    async def put(lines: bytes) -> None:
        nonlocal marked, warned
        if splitter.cut and not warned:
            warned = True
            say("a line is longer than --max-line; such lines are sent in pieces")
            with contextlib.suppress(ImportError):  # we are alone, and do not tell which is which
                marked = part("pieces").Marker().marked
        for some, piece in marked(lines, splitter.cut):
            for few in backlog.cut(some):
                await backlog.put(few, piece)

    try:
        while data := await stdin.read():
            await put(splitter.feed(data))
            with contextlib.suppress(CannotKeep):  # the next put() says so, and waits
                await backlog.room()
            stdin.rest(backlog.rest_s())
    except OSError as error:
        say(f"cannot read standard input: {error.strerror}")
        complete = False
    except asyncio.CancelledError:  # nobody tries any longer
        if splitter.tail_size and not stdin.always_ready:
            say(f"gave up {splitter.tail_size} bytes of a line that has not ended")
        return False
    finally:
        stdin.close(splitter.tail_size)
    if not (stdin.always_ready and stdin.left):  # else one can go on there at the line's beginning
        await put(splitter.end())
    await backlog.end()
    return complete


# ---- backlog ----------------------------------------------------------------------------------


class Sendable(Protocol):
    """What a backlog gives to who sends: the messages of a chunk, each of up to `batch` events."""

    number: int  # its place among those of its shipper, from 1 up; 0: nobody has taken it
    batch: int  # events in a message; in the last one, at most
    size: int  # bytes, as the limit of a backlog counts them

    def messages(self) -> list[bytes]:
        """What is sent."""

    def text(self) -> bytes:
        """The messages in one piece, with LF between them; if it is one, it may have any bytes."""

    def count(self) -> int:
        """How many events it has."""


class CannotKeep(Exception):
    """A backlog cannot take a chunk, or have it for good, now; the message says why."""


class Chunk:
    """Whole lines, each ended by LF, that are sent together; a Sendable."""

    __slots__ = ("_count", "_form", "_parts", "batch", "number", "read_at_ms", "size")

    def __init__(self, form: EventFormat, lines: bytes, read_at_ms: int) -> None:
        self.number = 0  # of a chunk that somebody took
        self.batch = form.batch  # events in a message; in the last one, at most
        self._form = form
        self._parts = [lines]
        self._count = 0  # events; 0 until somebody asks, which takes time
        self.size = len(lines)
        self.read_at_ms = read_at_ms  # since the epoch; 0 where nobody asked

    def add(self, lines: bytes) -> None:
        """Append more lines; when it is full, they become one piece of memory."""
        self._parts.append(lines)
        self._count = 0
        self.size += len(lines)
        if self.size >= CHUNK_SIZE:
            self._parts = [b"".join(self._parts)]

    def messages(self) -> list[bytes]:
        """What is sent."""
        return self._form.messages(b"".join(self._parts), self.read_at_ms)

    def text(self) -> bytes:
        """The messages in one piece, with LF between them; if it is one, it may have any bytes."""
        return b"\n".join(self.messages())

    def count(self) -> int:
        """How many events it has."""
        self._count = self._count or sum(part.count(b"\n") for part in self._parts)
        return self._count


class Backlog:
    """What was read and is not sent yet: an unbounded asyncio.Queue of chunks, and its size.

    `limit` (bytes; 0: none) is the one signal that goes upstream: while so much waits, `room()`
    does not return, stdin is not read, and whoever writes there is held back.
    A part that keeps lines elsewhere is a subclass, with all that zmq_pusher and stdin_queuer call
    its own, but for the limit; its methods may raise CannotKeep where it says.
    """

    grace_s = GRACE_AFTER_SIGNAL_S  # how long to deliver after a signal

    def __init__(self, limit: int, form: EventFormat) -> None:
        self.sent = 0  # events taken by libzmq
        self.size = 0  # bytes that wait
        self.last_sent_at = 0.0  # time.monotonic()
        self.limit = limit
        self.unanswered = 0  # events of those that wait which their writer keeps, too
        self._form = form
        self._most = max(ENCODED_SIZE // form.least_size, 1)  # events in a chunk
        self._peak = 0  # of size, since memory was given back
        self._room = asyncio.Event()
        self._queue: asyncio.Queue[Sendable | None] = asyncio.Queue()
        self._youngest: Chunk | None = None  # the last one put, while nobody has taken it
        self._in_hand: collections.deque[Sendable] = collections.deque()  # not done yet
        self.sent_before = 0  # of `sent`, before the one that is being sent
        self._id = os.urandom(SHIPPER_SIZE)
        self._numbers = 0  # that were given
        self._expect_news()

    def reads_from(self, stdin: Stdin) -> None:
        """Lines will come from `stdin`."""
        if stdin.always_ready and not self.limit:
            self.limit = FILE_AHEAD

    # what stdin_queuer calls

    def announce(self) -> None:
        """Wake who waits in `get()`: a chunk is there, or will be when its turn comes.

        stdin is about to be read then, in the same turn of the event loop. To wait for the chunk
        itself would take one more, a tenth of the time from line to message.
        """
        if not self._news.done():
            self._news.set_result(None)

    def cut(self, lines: bytes) -> list[bytes]:
        """`lines`, in parts if they are so short and many that their messages took much memory."""
        parts = [lines]
        if len(lines) > 4 * self._most:  # to count them takes time
            with contextlib.suppress(ImportError):
                parts = part("memory").cut(lines, self._most)
        return parts

    async def put(self, lines: bytes, piece: Any = None) -> None:
        """Append `lines` to the youngest chunk if that waits and is small, and is no `piece`."""
        if not lines:
            return
        read_at_ms = self.now_ms()
        youngest = self._youngest
        if piece:
            self.put_chunk(Chunk(piece.form(self._form), lines, read_at_ms))
        elif (
            youngest
            and youngest.size < min(CHUNK_SIZE, self._most)
            and youngest.read_at_ms == read_at_ms
        ):
            youngest.add(lines)
        else:
            self._youngest = Chunk(self._form, lines, read_at_ms)
            self._queue.put_nowait(self._youngest)
            self.announce()
        self._grown(len(lines) * (not piece))

    def put_chunk(self, chunk: Sendable) -> None:
        """Append `chunk`. May raise CannotKeep."""
        self._youngest = None
        self._queue.put_nowait(chunk)
        self.announce()
        self._grown(chunk.size)

    async def safe(self) -> None:
        """Return when nothing that was put can be lost with us: libzmq has it, or a disk.

        May raise CannotKeep.
        """
        while self.size:
            self._room.clear()
            await self._room.wait()

    def rest_s(self) -> float:
        """How long what comes next may gather before it is put."""
        return 0.0

    async def room(self) -> None:
        """Wait until less than the limit waits. May raise CannotKeep."""
        while self.limit and self.size >= self.limit:
            self._room.clear()
            await self._room.wait()

    def lift_limit(self) -> None:
        """The end is near: what is still read is taken."""
        self.limit = 0
        self._room.set()

    async def end(self) -> None:
        """Nothing more will be put."""
        self._queue.put_nowait(None)
        self.announce()

    # what zmq_pusher calls

    async def get(self) -> Sendable | None:
        """Wait for the oldest chunk; None at the end."""
        if not self._queue.empty():
            await asyncio.sleep(0)  # nothing to wait for: let stdin and signals have their turn
        while self._queue.empty():
            self._expect_news()
            await self._news
        chunk = self._queue.get_nowait()
        if chunk is self._youngest:
            self._youngest = None
        if chunk:
            self._numbers += 1
            chunk.number = self._numbers
            self._in_hand.append(chunk)
        return chunk

    def shipper_of(self, chunk: Sendable) -> bytes:
        """Whose it is: 16 bytes, which belong to this process or to a file."""
        return self._id

    def done(self, chunk: Sendable, messages: int) -> None:
        """`chunk` was taken by libzmq, or acknowledged, whole, as so many messages."""
        self._in_hand.remove(chunk)
        self.sent_before = self.sent
        self.size -= chunk.size
        self.last_sent_at = time.monotonic()
        self._room.set()
        if not self.size and self._peak >= WORTH_TRIMMING:
            self._peak = 0
            with contextlib.suppress(ImportError):
                part("memory").trim()

    # what is told

    def waiting(self) -> int:
        """How many events wait (a long line counts its pieces). Goes once around the queue."""
        count = sum(chunk.count() for chunk in self._in_hand) - self._begun()
        for _ in range(self._queue.qsize()):
            chunk = self._queue.get_nowait()
            count += chunk.count() if chunk else 0
            self._queue.put_nowait(chunk)
        return count

    def place(self) -> str:
        """Where they wait, for a message: in memory, which need not be said."""
        return ""

    def say_left(self, undelivered: int, link: Link) -> bool:
        """Nobody tries any longer: say what is left, and whether any of that is lost."""
        if undelivered:
            say(link.gave_up(undelivered, self.waiting() - self.unanswered))
        return undelivered > 0

    def close(self, delivered: bool) -> None:
        """Everything was `delivered`, or nobody tries any longer."""

    def now_ms(self) -> int:
        """Since the epoch; 0 where nobody asks for it."""
        return time.time_ns() // 1_000_000 if self._form.timestamps else 0

    def _begun(self) -> int:
        """Events taken by libzmq of a chunk that is not done."""
        return self.sent - self.sent_before

    def _expect_news(self) -> None:
        self._news = asyncio.get_running_loop().create_future()

    def _grown(self, size: int) -> None:
        self.size += size
        self._peak = max(self._peak, self.size)


def make_backlog(options: argparse.Namespace, form: EventFormat) -> Backlog:
    """What keeps the lines until they are sent."""
    if options.spool:
        return part("spool").open_spool(options, form)  # type: ignore[no-any-return]
    return Backlog(options.queue_limit, form)


# ---- output -----------------------------------------------------------------------------------


class CountedEmpty(bytes):
    """An empty message that aiozmq counts as one byte.

    The transport's write buffer is measured in bytes: a b"" in it could not be waited for, and
    what is sent next would overtake it. On the wire it is as empty as it is in memory.
    """

    def __len__(self) -> int:
        return 1


class Link(aiozmq.ZmqProtocol):  # type: ignore[misc]
    """The PUSH socket on its aiozmq transport, and what is known of the connections.

    Messages go straight to libzmq, hundreds at a call, since `transport.write()` costs ten times
    as much. Only what libzmq refuses goes to the transport, which waits for room without polling;
    until its buffer is empty nothing goes past it, or it would overtake. One message is enough
    to wait with. More would be slower: the transport sends one a turn of the event loop, while
    libzmq, once it has room, has room for hundreds.
    """

    KIND = zmq.PUSH
    LINGER_MS = -1  # until delivered
    misfits: ClassVar[dict[str, float]] = {}  # endpoints with another mechanism; when to come back

    def __init__(self, options: argparse.Namespace, form: EventFormat) -> None:
        # Those that stand, by descriptor. Of its handshake a libzmq older than 4 does not tell; but
        # who has not made one in time is cut off, so that who is still there then is a collector.
        self.connections: dict[int, tuple[str, asyncio.TimerHandle]] = {}
        self.met_collector = asyncio.Event()  # set by the first, until one has refused us
        self.on_change: Callable[[bool], None] = lambda is_there: None  # a collector, or none is
        self._watermarks = {"high": options.high_water, "low": options.low_water}
        self._sndhwm: int = options.sndhwm
        self._bind: list[str] = options.bind
        self._connect: list[str] = options.connect
        self._batch = form.batch
        self._being_sent = OUT_BATCH_SIZE // form.least_size  # events, at most
        self._loop = asyncio.get_running_loop()
        self._connected: dict[str, bool] = {}  # endpoints, and whether by IPv6
        self._curve = options.curve
        self.ever_met = False
        self._held: Any = None  # by libzmq, of large messages
        self._large = LARGE - form.least_size  # bytes of a line that makes such
        self._unmet: dict[str, int] = {}  # by endpoint, how often there was no handshake
        self._coming_back: set[str] = set()  # endpoints that are connected to anew after a while
        self._drained = asyncio.Event()
        self._closed = asyncio.Event()

    async def open(self) -> None:
        """Bind and connect. Raises OSError, whose `filename` is the endpoint."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        with contextlib.suppress(OSError):  # who may set his policy at all may choose this one
            os.sched_setscheduler(0, os.sched_getscheduler(0), os.sched_getparam(0))
            # libzmq's thread then does not interrupt ours at every message (sched(7)).
            context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_BATCH)
        push: zmq.Socket[bytes] = context.socket(self.KIND)
        push.setsockopt(zmq.SNDHWM, self._sndhwm)
        push.setsockopt(zmq.SNDTIMEO, 0)  # where there is no room, zmq.Again says so at once
        push.setsockopt(zmq.LINGER, self.LINGER_MS)
        push.setsockopt(zmq.IPV6, 1)  # of what is bound, at IPv4 addresses too
        push.setsockopt(zmq.TCP_KEEPALIVE, 1)
        push.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_AFTER_S)
        push.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        push.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        # For one collector, libzmq keeps what it has while that is away. Among several, a dead one
        # would be given its share.
        self._immediate = len(self._bind) + len(self._connect) > 1 or self.KIND != zmq.PUSH
        push.setsockopt(zmq.IMMEDIATE, int(self._immediate))
        self._push = push
        self._send = super(zmq.Socket, push).send  # of the backend: no checks, half the time
        self.transport, _ = await aiozmq.create_zmq_connection(
            lambda: self, self.KIND, zmq_sock=push
        )
        self.transport.set_write_buffer_limits(**self._watermarks)
        await self.transport.enable_monitor(UP | zmq.EVENT_DISCONNECTED | HANDSHAKE)
        if self._curve and self._bind:
            self._curve.serve(push)
        for endpoint in self._bind:
            try:
                refuse_to_displace(endpoint)
                bound = await self.transport.bind(endpoint)
            except OSError as error:
                why = zmq.strerror(error.errno or errno.EINVAL)
                raise OSError(error.errno, why, endpoint) from None
            if endpoint.endswith(":*"):
                say(f"bound to {bound}")
        if self._bind and not self._curve:
            with contextlib.suppress(ImportError):  # it can be said with its part only
                part("curve").say_exposed(self._bind, "take the events")
        self._connect_all()

    def _connect_all(self) -> None:
        for endpoint in self._connect:
            self.connect(endpoint)

    def connect(self, endpoint: str) -> None:
        """Connect, at once or when the name resolves."""
        if endpoint.startswith("tcp://"):
            threading.Thread(target=self._look_up, args=(endpoint,), daemon=True).start()
        else:
            self._connect_to(endpoint)

    def _look_up(self, endpoint: str) -> None:
        """Connect to a name once it resolves. On a thread of its own: DNS may take its time.

        libzmq uses one address of a name, and with ZMQ_IPV6 an IPv6 one if there is any; but
        collectors listen to IPv4 only, unless told otherwise.
        """
        host = endpoint[len("tcp://") :].rpartition(":")[0].strip("[]")
        warned = False
        while True:
            try:
                families = {address[0] for address in socket.getaddrinfo(host, None)}
                break
            except (OSError, UnicodeError) as error:  # UnicodeError: a part of it is too long
                if not warned:
                    why = getattr(error, "strerror", error)
                    say(f"{endpoint}: {why}; going on, it is tried again and again")
                warned = True
                time.sleep(RECONNECT_MAX_MS / 1000)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            ipv6 = socket.AF_INET not in families
            self._loop.call_soon_threadsafe(self._connect_to, endpoint, ipv6)

    def _connect_to(self, endpoint: str, ipv6: bool = False) -> None:
        if not self._push.closed:
            self._push.setsockopt(zmq.IPV6, int(ipv6))
            if self._curve:
                self._curve.join(self._push, endpoint)
            self._push.connect(endpoint)
            self._connected[endpoint] = ipv6

    def send(self, messages: Iterator[bytes], mean_line: float) -> bool:
        """Hand `messages` to libzmq; False as soon as one is refused, which is the last taken.

        Where their lines have so many bytes that they are large, what it holds of them is bounded.
        """
        send = self._send
        if mean_line >= self._large:
            with contextlib.suppress(ImportError):
                self._held = self._held or part("large").Held(self._push)
                send = self._held.send
        with contextlib.suppress(zmq.Again):
            collections.deque(map(send, messages), maxlen=0)
            return True
        return False

    async def send_later(self, refused: bytes) -> None:
        """Leave a message that was refused to the transport; return when it is sent."""
        if self._held and await self._held.send_later(refused):
            return
        self.transport.write([refused or CountedEmpty()])
        if self.transport.get_write_buffer_size():
            self._drained.clear()
            self.transport.set_write_buffer_limits(high=0, low=0)  # tell us when it is empty
            await self._drained.wait()
            self.transport.set_write_buffer_limits(**self._watermarks)

    async def deliver(self, backlog: Backlog) -> None:
        """Send the backlog, oldest chunk first, until its end."""
        await zmq_pusher(backlog, self)

    async def close(self) -> None:
        """Return when libzmq has delivered everything; only the end of its context tells that."""
        self.transport.close()
        await self._closed.wait()
        await self.end_context()

    async def end_context(self) -> None:
        """Return when libzmq has delivered all that its sockets, now closed, had been given."""
        if self._curve:
            self._curve.close()
        terminated = asyncio.Event()

        def terminate() -> None:
            zmq.Context.instance().term()
            self._loop.call_soon_threadsafe(terminated.set)

        threading.Thread(target=terminate, daemon=True).start()
        await terminated.wait()

    # what is told

    def held(self, sent: int) -> int:
        """How many of the last `sent` events libzmq may hold, which it does not tell."""
        if not (sent and self._sndhwm):
            return sent
        a_connection = self._sndhwm * self._batch + self._being_sent + self._batch
        return min(sent, a_connection * max(len(self.connections), 1))

    def waits(self, undelivered: int, place: str) -> str:
        """What keeps us after the end of the input."""
        if self.ever_met:
            return f"up to {undelivered} messages are still on their way to"
        return f"{undelivered} messages wait{place} for a collector at"

    def gave_up(self, undelivered: int, waited: int) -> str:
        """What is lost when nobody tries any longer; `waited` of it were never sent."""
        if not self.ever_met:
            return f"gave up {undelivered} messages: no collector ever connected"
        return (
            f"gave up at most {undelivered} messages: {waited} that waited here, "
            "and what libzmq held, which it does not tell"
        )

    # what the transport calls

    def resume_writing(self) -> None:
        self._drained.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._closed.set()

    def event_received(self, event: Any) -> None:
        if self._curve:
            self._curve.heard(*event)
        if event.event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._met()
            self.misfits.pop(event.endpoint, None)
            self._unmet.pop(event.endpoint, None)
            for _, old_enough in self.connections.values():
                old_enough.cancel()
        elif event.event == zmq.EVENT_DISCONNECTED:
            _, old_enough = self.connections.pop(event.value)
            if not (old_enough.cancelled() or self._curve):
                self._cut_off(event.endpoint)
            old_enough.cancel()
            if not self.connections:
                self.on_change(False)
            refusal = self._curve.refusal_of(event.endpoint) if self._curve else None
            is_final = refusal.is_final if refusal else event.endpoint in self.misfits
            if (refusal or is_final) and not self.connections:
                self.met_collector.clear()  # libzmq would lose what it is given
            # libzmq gives up for good on a peer that was not what it should be, without a word.
            # To connect anew costs nothing where libzmq holds nothing for who is not there.
            if self._immediate or not self.ever_met or is_final:
                if refusal or is_final:
                    self._disconnect(event.endpoint)
                wait_s = self.misfits.get(event.endpoint, RECONNECT_MAX_MS / 1000)
                self._come_back(event.endpoint, refusal.pause_s() if refusal else wait_s)
        elif event.event & UP:
            old_enough = self._loop.call_later(HANDSHAKE_S, self._met)
            self.connections[event.value] = (event.endpoint, old_enough)
        elif event.value == MISMATCH and event.endpoint in self._connected:
            self._does_not_fit(event.endpoint, min(2 * self.misfits.get(event.endpoint, 1.0), 60.0))

    def _met(self) -> None:
        self.ever_met = True
        self.met_collector.set()
        self.on_change(True)

    def _cut_off(self, endpoint: str) -> None:
        """A connection has ended before its handshake; libzmq does not always see why."""
        self._unmet[endpoint] = times = self._unmet.get(endpoint, 0) + 1
        keeps_nothing = self._immediate or not self.ever_met  # in libzmq, for who is not there
        if times >= MOST_CUTS and keeps_nothing and endpoint in self._connected:
            pause_s = min(2.0 ** (times - MOST_CUTS + 1), 16.0)
            self._does_not_fit(endpoint, max(self.misfits.get(endpoint, 0.0), pause_s))

    def _does_not_fit(self, endpoint: str, pause_s: float) -> None:
        if not self._curve and endpoint not in self.misfits:
            say(f"{endpoint} is no plain collector: another socket, or one with CURVE?")
        self.misfits[endpoint] = pause_s

    def _come_back(self, endpoint: str, after_s: float) -> None:
        if endpoint not in self._coming_back:
            self._coming_back.add(endpoint)
            self._loop.call_later(after_s, self._connect_again, endpoint)

    def _connect_again(self, endpoint: str) -> None:
        self._coming_back.discard(endpoint)
        standing = [connected for connected, _ in self.connections.values()]
        if endpoint in self._connected and endpoint not in standing and not self._push.closed:
            self._disconnect(endpoint)
            self._connect_to(endpoint, self._connected[endpoint])

    def _disconnect(self, endpoint: str) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it is not connected to
            self._push.disconnect(endpoint)


def refuse_to_displace(endpoint: str) -> None:
    """Raise OSError where an ipc endpoint is in use, or no socket: libzmq would remove it."""
    path = endpoint[len("ipc://") :]
    if endpoint.startswith("ipc://") and os.path.exists(path):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "it is there, and not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                raise OSError(errno.EADDRINUSE, "")


def make_link(options: argparse.Namespace, form: EventFormat) -> Link:
    """What the backlog is sent through."""
    kind: type[Link] = Link
    if options.ack:
        kind = part("dealer").AckLink
    elif options.spool:
        kind = part("spool_link").SpoolLink
    return kind(options, form)


async def zmq_pusher(backlog: Backlog, link: Link) -> None:
    """Send the backlog, oldest chunk first, until its end."""
    while chunk := await backlog.get():
        await link.met_collector.wait()  # a peer that is none would take libzmq's queue with it
        messages = chunk.messages()
        before, events = backlog.sent, len(messages) if chunk.batch == 1 else chunk.count()
        left = iter(messages)
        while not link.send(left, chunk.size / len(messages)):
            refused = len(messages) - operator.length_hint(left) - 1
            backlog.sent = before + refused * chunk.batch
            await link.send_later(messages[refused])
        backlog.sent = before + events
        backlog.done(chunk, len(messages))


# ---- running ----------------------------------------------------------------------------------


class Ending:
    """Decides when to stop trying: `gave_up` is done when the time has run out.

    After the end of input there are `linger_s` seconds for delivery. A signal ends the input and
    leaves 2 s for everything; SIGINT after that leaves nothing.
    """

    def __init__(self, linger_s: float, grace_s: float, stdin: Stdin, backlog: Backlog) -> None:
        """`grace_s` is how long to deliver after a signal."""
        self._loop = asyncio.get_running_loop()
        self.gave_up = self._loop.create_future()
        self._linger_s = linger_s
        self._grace_s = grace_s
        self._stdin = stdin
        self._backlog = backlog
        self._ended_at = math.inf
        self._signalled_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_signal_handler(signal.SIGINT, self._on_signal, signal.SIGINT)
        self._loop.add_signal_handler(signal.SIGTERM, self._on_signal, signal.SIGTERM)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def input_ended(self) -> None:
        """From now on `linger_s` counts."""
        self._ended_at = self._loop.time()
        self._set_timer()

    def _on_signal(self, number: int) -> None:
        if self._signalled_at < math.inf:
            if number == signal.SIGINT:  # SIGTERM is sent twice by rsyslogd and systemd together
                self.give_up()
            return
        self._signalled_at = self._loop.time()
        if self._ended_at < math.inf:
            self._set_timer()
        elif number == signal.SIGINT:
            self._end_input()
        else:
            # A service manager stops rsyslogd and us together, and rsyslogd still drains.
            self._loop.call_later(GRACE_AFTER_SIGNAL_S, self._end_input)

    def _end_input(self) -> None:
        self._backlog.lift_limit()
        grace_ends_at = self._signalled_at + GRACE_AFTER_SIGNAL_S
        self._stdin.finish(grace_ends_at)
        # What was read may have to wait, for rsyslog's answer or for a disk: not for ever.
        self._loop.call_at(grace_ends_at + LAST_HANDOVER_S, self.give_up)

    def _set_timer(self) -> None:
        grace_ends_at = self._signalled_at + self._grace_s
        give_up_at = max(grace_ends_at, self._ended_at + LAST_HANDOVER_S)
        give_up_at = min(give_up_at, self._ended_at + self._linger_s)
        if self._timer:
            self._timer.cancel()
        if give_up_at < math.inf:
            self._timer = self._loop.call_at(give_up_at, self.give_up)

    def give_up(self) -> None:
        """Let the time have run out."""
        if not self.gave_up.done():
            self.gave_up.set_result(None)


class Report:
    """Tells what is waited for, and how it ended; on demand, how things are."""

    def __init__(
        self, options: argparse.Namespace, stdin: Stdin, backlog: Backlog, link: Link
    ) -> None:
        self._options = options
        self._stdin = stdin
        self._backlog = backlog
        self._link = link
        self._where = " ".join(options.connect + options.bind)
        self._alone = False  # there is no collector, and we have said so
        self._timer: asyncio.TimerHandle | None = None  # until something is said
        self._later = asyncio.get_running_loop().call_later
        link.on_change = self._link_changed
        self._link_changed(False)

    def _link_changed(self, is_there: bool) -> None:
        """A collector is there: say so if it was missed; or none is: say so after a while."""
        if is_there and self._timer:
            self._timer.cancel()
            self._timer = None
        if is_there and self._alone:
            self._alone = False
            say_state(f"connected; {self._backlog.waiting()} messages wait")
        elif not (is_there or self._timer):
            self._timer = self._later(ALONE_AFTER_S, self._say_alone, AGAIN_AFTER_S)

    def _say_alone(self, again_s: float) -> None:
        self._alone = True
        waiting = self._backlog.waiting()
        say_state(f"no collector at {self._where}; {waiting} messages wait{self._backlog.place()}")
        self._timer = self._later(again_s, self._say_alone, 2 * again_s)

    def input_ended(self) -> None:
        """From now on that is what is told, again and again, until the end."""
        self._link.on_change = lambda is_there: None
        if self._timer:
            self._timer.cancel()
        self._timer = self._later(NOTICE_AFTER_S, self._say_ended, AGAIN_AFTER_S)

    def counters(self) -> None:
        """Say the counters on stderr."""
        try:
            part("counters").say_counters(self._stdin, self._backlog, self._link)
        except ImportError as missing:
            say(f"no counters: {missing}")

    def undelivered(self) -> int:
        """Messages that may not have arrived, at most: libzmq does not tell what it holds."""
        backlog = self._backlog
        return backlog.waiting() - backlog.unanswered + self._link.held(backlog.sent)

    def _say_ended(self, again_s: float) -> None:
        what = self._link.waits(self.undelivered(), self._backlog.place())
        hint = "; --linger SECONDS would end that" if again_s > AGAIN_AFTER_S else ""
        if self.undelivered():
            say(f"the input has ended; {what} {self._where}{hint}")
        self._timer = self._later(again_s, self._say_ended, 2 * again_s)

    def summary(self) -> None:
        """Tell on stdout how many messages went out, and in which time."""
        backlog = self._backlog
        ms = ((backlog.last_sent_at or time.monotonic()) - self._stdin.started_at) * 1000
        text = f"Processed {backlog.sent} messages in {ms:.4f}ms. Tagged with @pid:{os.getpid()}\n"
        try:
            offer(text.encode(), 2 if self._options.omprog else 1)
        except OSError as error:
            if error.errno != errno.EPIPE:  # else nobody wants to know
                say(f"cannot write to standard output: {error.strerror}")


async def ship(options: argparse.Namespace) -> int:
    """Push all of stdin; returns the exit status."""
    form = make_format(options, os.getpid())
    try:
        options.curve = part("curve").open_curve(options) if options.curve_key else None
        link = make_link(options, form)
        await link.open()
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    backlog = make_backlog(options, form)
    try:
        # rsyslog asks and waits: its message is all that there will be.
        stdin = Stdin(lambda: None) if options.omprog else Stdin(backlog.announce, options.gather)
    except OSError as error:
        fail(f"cannot read standard input: {error}")
    backlog.reads_from(stdin)
    report = Report(options, stdin, backlog, link)
    ending = Ending(options.linger, backlog.grace_s, stdin, backlog)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, report.counters)
    if options.curve:
        loop.add_signal_handler(signal.SIGHUP, options.curve.reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if options.stats:
        part("counters").repeat(report.counters, options.stats)
    live_line = None
    if options.progress and os.isatty(2):
        live_line = part("progress").LiveLine(stdin, backlog, options.spool)
        live_line.begin()
    if options.omprog:
        stdin.widen()
        queuer = part("omprog").omprog_queuer(options, stdin, backlog, form, link)
    else:
        queuer = stdin_queuer(stdin, LineSplitter(options.max_line), backlog)

    async def deliver() -> None:
        await asyncio.gather(reading, link.deliver(backlog))
        await link.close()

    def input_ended(_: asyncio.Task[bool]) -> None:
        ending.input_ended()
        report.input_ended()
        if backlog.unanswered and not link.met_collector.is_set():
            ending.give_up()  # rsyslog has gone, and will give what it has to the next program

    reading = loop.create_task(queuer)
    reading.add_done_callback(input_ended)
    delivering = loop.create_task(deliver())
    await asyncio.wait({delivering, ending.gave_up}, return_when=asyncio.FIRST_COMPLETED)
    delivered = delivering.done()
    if live_line:
        live_line.end()
    if delivered:
        delivering.result()  # raises what went wrong, which would be a bug
    reading.cancel()  # has no effect but after a second signal, and then it puts stdin's flags back
    await asyncio.wait({reading})
    backlog.close(delivered)
    lost = not delivered and backlog.say_left(report.undelivered(), link)
    if not options.quiet:
        report.summary()
    all_read = reading.cancelled() or reading.result()
    if stdin.left and not options.omprog:
        say(stdin.left)
        all_read = False
    return 1 if lost or not all_read else 0


# ---- command line -----------------------------------------------------------------------------

SIZE_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
FREE_TEXT = ("-f", "--field", "--omprog-begin", "--omprog-commit")  # blanks at the end belong to it
RESERVED_FIELDS = ("message", "type", "@pid")
# zmq_tcp(7). Checked here, for libzmq takes a port of 99999 and any name, and then waits.
TCP = re.compile(r"tcp://(\[(?P<ipv6>[^]]+)\]|(?P<name>[^][:/\s]+)):(?P<port>\d{1,5}|\*)", re.ASCII)
LONGEST_IPC_PATH = 107  # bytes (unix(7))


def read_size(word: str) -> int:
    """A size in bytes, such as `64k` or `64kB`. Raises ValueError."""
    digits = word.lower().rstrip("kmgb")
    unit = word.lower()[len(digits) :]
    unit = unit[0] if unit[1:] == "b" else unit
    if not digits.isdecimal() or unit not in SIZE_UNITS:
        raise ValueError(word)
    return int(digits) * SIZE_UNITS[unit]


def read_line_size(word: str) -> int:
    """A size into which any character fits, or 0. Raises ValueError."""
    if 0 < read_size(word) < LONGEST_CHARACTER:
        raise ValueError(word)
    return read_size(word)


def read_text(word: str) -> str:
    """A word of the command line; what is not UTF-8 in it becomes `\\xNN`."""
    return os.fsencode(word).decode(errors="backslashreplace")


def read_field(word: str) -> tuple[str, str]:
    """`NAME=VALUE`. Raises ValueError."""
    name, equals, value = read_text(word).partition("=")
    if not (name and equals) or name in RESERVED_FIELDS or name[0] in "\"'":
        raise ValueError(word)
    return name, value


def read_endpoint(word: str, to_bind: bool = False) -> str:
    """An endpoint that libzmq can use; to bind, `*` is any host or port. Raises ValueError."""
    if word.startswith("ipc://") and 0 < len(os.fsencode(word[6:])) <= LONGEST_IPC_PATH:
        return word
    match = TCP.fullmatch(word)
    if not match and TCP.fullmatch(f"tcp://{word}"):
        raise argparse.ArgumentTypeError(f"{word!r} is not {ENDPOINT}. Type tcp://{word}")
    if not match or not (to_bind if match["port"] == "*" else 0 < int(match["port"]) < 65536):
        raise ValueError(word)
    if match["ipv6"]:
        try:
            socket.inet_pton(socket.AF_INET6, match["ipv6"].partition("%")[0])
        except OSError:
            raise ValueError(word) from None
    if match["name"] == "*" and not to_bind:
        raise argparse.ArgumentTypeError(f"{word!r} is to bind. Type a host: {DEFAULT_ENDPOINT}")
    return word


def checked(
    read: Callable[[str], Any], what: str, least: float = -1, most: float = math.inf
) -> Any:
    """A `type` for argparse: what `read` makes of a word; `what` says what it should be.

    A number must lie between `least` and `most` (both included).
    """

    def check(word: str) -> Any:
        with contextlib.suppress(ValueError):
            value = read(word)
            if not isinstance(value, (int, float)) or least <= value <= most:
                return value
        raise argparse.ArgumentTypeError(f"{word!r} is not {what}")

    return check


ENDPOINT = "an endpoint: tcp://HOST:PORT, port 1 to 65535, IPv6 in brackets; or ipc://PATH"
CONNECT = checked(read_endpoint, ENDPOINT)
BIND = checked(functools.partial(read_endpoint, to_bind=True), ENDPOINT)
COUNT = checked(int, "a whole number from 1 up", 1, LARGEST_INT)
INTERVAL = checked(float, "a number of seconds over 0", SHORTEST_INTERVAL_S, LARGEST_INT)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose options have environment variables, and whose errors are one line."""

    def __init__(self, description: str, prefix: str) -> None:
        """`prefix` begins the names of the variables."""
        super().__init__(
            prog=os.path.basename(sys.argv[0]),
            description=description,
            epilog=f"Each option has an environment variable, such as {prefix}STATS.",
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,  # parse() wants to know what was not said
        )
        self.group: Any = self  # of --help, to which option() adds
        self._prefix = prefix
        self._actions_of: dict[str, argparse.Action] = {}  # by variable
        self._default_of: dict[str, Any] = {}
        self._part_of: dict[str, tuple[str, Any]] = {}  # and the value that asks for it
        self._place = ""

    def option(
        self, *names: str, default: Any, part: str = "", only: Any = None, **settings: Any
    ) -> None:
        """Add an option or a positional argument; a list as `default` makes it repeatable.

        `part` names the part that does what it asks for, with any value, or with `only` this one.
        """
        if isinstance(default, list):
            settings["action"] = "append"
        action = self.group.add_argument(*names, **settings)
        self._actions_of[self._prefix + action.dest.upper()] = action
        self._default_of[action.dest] = default
        if part:
            self._part_of[action.dest] = (part, only)

    def check_parts(self, options: argparse.Namespace) -> None:
        """Let each part that was asked for see whether the options fit together."""
        for dest, (name, only) in self._part_of.items():
            value = getattr(options, dest)
            if not value or value == self._default_of[dest] or only not in (None, value):
                continue
            try:
                part(name).check(options)
            except ImportError as missing:
                fail(f"--{dest.replace('_', '-')}: {missing}")
            except ValueError as misfit:
                self.error(str(misfit))

    def error(self, message: str) -> NoReturn:
        """End with one line and status 2."""
        fail(f"{self._place}{message} (--help tells more)")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """What the command line says, else the environment, else the defaults."""
        said = dict(self._default_of)
        for name in os.environ:
            if name.startswith(self._prefix) and name not in self._actions_of:
                say(f"environment variable {name} names no option (--help tells which there are)")
        for variable, action in self._actions_of.items():
            self._place = f"environment variable {variable}: "
            said.update(vars(self.parse_args(self._words(action, os.environ.get(variable, "")))))
        self._place = ""
        said.update(vars(self.parse_args(self._without_empty(arguments))))
        return argparse.Namespace(**said)

    def _without_empty(self, words: list[str]) -> list[str]:
        """`words` without the empty ones that would be positional arguments.

        For blanks at the end of `binary="…"` rsyslog 8.2302 passes an empty word, and 8.2608 leaves
        them at the last word: there they are taken off. An option's value that is empty, or any
        text, stays what it is.
        """
        *before, last = words or [""]
        is_text = last.startswith(FREE_TEXT) or (before and before[-1].startswith(FREE_TEXT))
        words = [*before, last if is_text else last.rstrip(" ")]
        kept: list[str] = []
        is_value = only_positional = False
        for word in words:
            if word or is_value:
                kept.append(word)
            is_value = not (is_value or only_positional) and self._takes_next(word)
            only_positional = only_positional or word == "--"
        return kept

    def _takes_next(self, word: str) -> bool:
        """Whether the word after `word` is the value of an option: `--batch`, `-c` or `-qc`."""
        actions = self._option_string_actions
        if word in actions:
            return actions[word].nargs is None
        if word.startswith("--") or not word.startswith("-"):
            return False
        for at, letter in enumerate(word[1:], 2):
            action = actions.get(f"-{letter}")
            if action is None or action.nargs is None:
                return action is not None and at == len(word)
        return False

    def _words(self, action: argparse.Action, value: str) -> list[str]:
        """The words of a command line that say what the variable of `action` says."""
        if not value:
            return []
        if not action.option_strings:
            return ["--", value]
        option = action.option_strings[-1]
        if action.nargs == 0:
            if value.lower() not in ("1", "yes", "true", "0", "no", "false"):
                self.error(f"{value!r} is neither yes nor no")
            return [option] if value.lower() in ("1", "yes", "true") else []
        if not isinstance(self._default_of[action.dest], list):
            return [f"{option}={value}"]
        import shlex  # rarely needed, and it takes time

        try:
            return [f"{option}={word}" for word in shlex.split(value)]
        except ValueError as error:
            self.error(f"{value!r}: {error}")


def add_curve_options(parser: Parser) -> None:
    # fmt: off
    """Those for keys, which the collector has, too."""
    parser.group = parser.add_argument_group("let nobody in without a key (CURVE)")
    option = parser.option
    option("--curve-keygen", metavar="NAME", default="", part="curve",
           help="make a pair of keys, NAME.key and NAME.key_secret, print the public key, and end")
    option("--curve-key", metavar="FILE", default="", part="curve",
           help="our own pair: the .key_secret file")
    option("--curve-server-key", metavar="KEY", default=[], part="curve",
           help="to connect: the other end's public key, or the file that has it; repeatable")
    option("--curve-clients", metavar="DIR", default="", part="curve",
           help="to bind: a folder of the public keys that are let in, or any; SIGHUP: look anew")
    # fmt: on


def build_parser(description: str) -> Parser:
    """All options, for this program and for those that share them."""
    size = checked(read_size, "a size such as 65536, 64k, 1M or 2GB")
    line_size = checked(read_line_size, "0 or a size of 4 or more")
    count_or_0 = checked(int, "a whole number from 0 up", 0, LARGEST_INT)
    linger = checked(
        lambda word: math.inf if word == "-1" else float(word), "a number of seconds, or -1", 0
    )
    gather = checked(float, "a number of seconds from 0 up", 0, LARGEST_INT)
    field = checked(read_field, f"NAME=VALUE, unquoted; NAME not {', '.join(RESERVED_FIELDS)}")
    switch: dict[str, Any] = {"action": "store_true", "default": False}

    parser = Parser(description, "ZMQPUSH_")
    option = parser.option
    # fmt: off
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"""{parser.epilog}

examples:
  tail -F app.log | %(prog)s app -c tcp://logs.example.org:2120
  %(prog)s app --spool /var/spool/app --ack -c tcp://logs.example.org:2120 <>app.fifo

exit status:
  0  everything was handed over, acknowledged, or is safe in the spool
  1  something was given up, or not all of the input was read
  2  it cannot work: a bad option, endpoint or combination, a missing package"""
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.group = parser.add_argument_group("choose what an event looks like")
    option("logtype", metavar="LOGTYPE", nargs="?", default="syslog",
           help="type of every event (syslog)")
    option("-f", "--field", metavar="NAME=VALUE", type=field, default=[],
           help="another string field in every event; repeatable")
    option("--timestamp", **switch, help="@timestamp: when the line was read")
    option("--format", choices=("logstash", "json", "raw"), default="logstash",
           part="json_format", only="json",
           help="json: an object is sent as it is, plus what it lacks; raw: the line (logstash)")
    option("--batch", metavar="N", type=COUNT, default=1,
           help="up to N events in a message, as a JSON array (1: one event, no array)")
    parser.group = parser.add_argument_group("choose where events go")
    option("-c", "--connect", metavar="ENDPOINT", type=CONNECT, default=[],
           help=f"connect to a collector; repeatable, they share the load ({DEFAULT_ENDPOINT})")
    option("-b", "--bind", metavar="ENDPOINT", type=BIND, default=[],
           help="let collectors connect; repeatable")
    add_curve_options(parser)
    parser.group = parser.add_argument_group("read from a pipe, a file or a FIFO")
    option("--gather", metavar="SECONDS", type=gather, default=0.04, part="gathering",
           help="let lines that come one by one and often gather for so long; 0: never (0.04)")
    option("--max-line", metavar="SIZE", type=line_size, default=SIZE_UNITS["m"],
           help="send longer lines in pieces of this size; 0: no limit (1M)")
    parser.group = parser.add_argument_group("limit what waits")
    option("--queue-limit", metavar="SIZE", type=size, default=0,
           help="stop reading while this much input waits; 0: no limit (0)")
    option("--linger", metavar="SECONDS", type=linger, default=math.inf,
           help="how long to deliver after the end of input; -1: until done (-1)")
    option("--sndhwm", metavar="N", type=count_or_0, default=1000,
           help="ZMQ_SNDHWM: messages that libzmq holds a connection; 0: no limit (1000)")
    option("--high-water", metavar="SIZE", type=size, default=64 * SIZE_UNITS["k"],
           help="the most that the transport's write buffer holds (64k)")
    option("--low-water", metavar="SIZE", type=size, default=16 * SIZE_UNITS["k"],
           help="above this nothing more is sent until that buffer has drained (16k)")
    parser.group = parser.add_argument_group("lose nothing")
    option("--spool", metavar="DIR", default="",
           part="spool",
           help="journal every line on disk, in files in DIR, before it is sent")
    option("--spool-limit", metavar="SIZE", type=size, default=0,
           part="spool",
           help="stop reading while this much waits in the spool; 0: no limit (0)")
    option("--list", **switch, part="spool_list",
           help="with --spool DIR: print what waits there, and whose it is, and end")
    option("--ack", **switch, part="dealer",
           help="acknowledged delivery, to zmqpull.py --ack; --connect only")
    parser.group = parser.add_argument_group("run under rsyslog")
    option("--omprog", **switch, part="omprog", help="answer rsyslog's confirmMessages on stdout")
    option("--omprog-transactions", **switch, part="omprog",
           help="answer rsyslog's useTransactions, too")
    option("--omprog-begin", metavar="TEXT", default="BEGIN TRANSACTION",
           part="omprog",
           help="rsyslog's beginTransactionMark (BEGIN TRANSACTION)")
    option("--omprog-commit", metavar="TEXT", default="COMMIT TRANSACTION",
           part="omprog",
           help="rsyslog's commitTransactionMark (COMMIT TRANSACTION)")
    parser.group = parser.add_argument_group("see what it does")
    option("--stats", metavar="SECONDS", type=INTERVAL, default=0.0,
           part="counters",
           help="counters on stderr that often; SIGUSR1 asks for them at once")
    option("--progress", **switch, part="progress",
           help="a live line on stderr, if that is a terminal (needs tqdm)")
    option("-q", "--quiet", **switch, help="no summary at the end")
    # fmt: on
    return parser


def parse_options(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    """The options, made sure to fit together."""
    options = parser.parse(arguments)
    options.connect = options.connect or ([] if options.bind else [DEFAULT_ENDPOINT])
    if options.low_water > options.high_water:
        low, high = options.low_water, options.high_water
        parser.error(f"--low-water ({low} bytes) is over --high-water ({high} bytes)")
    if options.logtype.startswith("-") and options.logtype in arguments and "--" not in arguments:
        # argparse takes an option and its value in one word for a LOGTYPE.
        parser.error(f"unrecognized arguments: {options.logtype}")
    for endpoint in options.bind:
        if endpoint in options.connect:
            parser.error(f"{endpoint} cannot be both bound and connected to")
    names = [name for name, _ in options.field] + ["@timestamp"] * options.timestamp
    if len(set(names)) < len(names):
        parser.error("a field is given twice: " + max(names, key=names.count))
    parser.check_parts(options)
    if options.format == "raw" and (names or options.batch > 1):
        parser.error("--format raw has no place for --field, --timestamp or --batch")
    return options


def open_standard_descriptors() -> None:
    """Open those that are closed: they would be given to the next file that is opened."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def main() -> None:
    """Run the program."""
    open_standard_descriptors()
    # Until it has seen a large block freed, glibc gives memory back to the kernel after each chunk
    # and asks for it again (mallopt(3), M_MMAP_THRESHOLD), which takes a tenth of the time.
    bytes(LARGE_BLOCK)
    options = parse_options(build_parser(__doc__.partition("\n")[0]), sys.argv[1:])
    if options.curve_keygen:
        sys.exit(part("keys").keygen(options.curve_keygen))
    if options.list:
        sys.exit(part("spool_list").list_spool(options.spool))
    free = os.sysconf("SC_OPEN_MAX") - len(os.listdir("/proc/self/fd"))
    needed = OPEN_FILES + len(options.connect + options.bind)
    if free < needed:  # libzmq would abort
        fail(f"{needed} more files must be opened, and only {free} can be: raise ulimit -n")
    status = asyncio.run(ship(options))
    os._exit(status)  # what libzmq may still hold is given up: do not wait for its threads


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Push every line of standard input, as a Logstash JSON event, out of a ZeroMQ PUSH socket.

The pattern is the pipeline of the ZeroMQ Guide. Two coroutines and an unbounded queue:

    stdin --epoll--> stdin_queuer() --> asyncio.Queue --> zmq_pusher() --> PUSH --> collector
                     reads a chunk      of chunks         formats a chunk,
                     of whole lines                       sends its messages

The unit inside is the chunk, the whole lines of one read; the unit on the wire is one event a
message. Nothing is done a line at a time that can be done a chunk at a time: that is where the
speed comes from. The parts below stand in the order of the data: what an event is, input, backlog
and spool, rsyslog's questions, output, then how it runs and ends, and the command line.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn


def say(text: str) -> None:
    """Write one line on stderr; where it is closed or full, there is nobody left to tell."""
    text = text.replace("\n", "\\n").replace("\r", "\\r")
    line = f"{os.path.basename(sys.argv[0])}: {text}\n"
    try:
        os.write(2, line.encode(errors="backslashreplace"))
    except OSError:
        return


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
import collections
import contextlib
import errno
import fcntl
import functools
import ipaddress
import itertools
import json
import math
import operator
import re
import resource
import select
import shlex
import socket
import sqlite3
import stat
import struct
import termios
import threading
import time
import zlib
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

__version__ = "1.0.0"

DEFAULT_ENDPOINT = "tcp://127.0.0.1:2120"  # the port of Logstash's zeromq input
READ_SIZE = 256 * 1024  # bytes asked for at once
CHUNK_SIZE = 64 * 1024  # bytes; smaller chunks that wait are put together up to this size
LARGE_BLOCK = 8 * 1024 * 1024  # bytes
DISK_RESERVE = 8 * 1024 * 1024  # bytes
WORTH_TRIMMING = 32 * 1024 * 1024  # bytes of backlog, after which memory is given back
FILE_AHEAD = 4 * 1024 * 1024  # bytes to read ahead in a regular file: it keeps the rest for us
F_SETPIPE_SZ = 1031  # fcntl(2); Python 3.9 has no name for it
PIPE_SIZE = 1024 * 1024  # bytes, fs.pipe-max-size as Linux comes
LONGEST_CHARACTER = 4  # bytes, in UTF-8 (RFC 3629)
GRACE_AFTER_SIGNAL_S = 2.0
LAST_HANDOVER_S = 0.5  # at least this is left for delivery when reading on has used up the grace
NOTICE_AFTER_S = 1.0  # how long the end of input waits for a collector before we say so
KEEPALIVE_AFTER_S = 60
WINDOW_SIZE = 4 * 1024 * 1024  # bytes that may be on their way without an acknowledgement
WINDOW_CHUNKS = 1000  # and chunks, each of which may keep a file of the spool open
ANSWER_S = 5.0  # after so long an answer is late
LONGEST_PATIENCE_S = 60.0
OUT_BATCH_SIZE = 8192  # bytes that libzmq writes at once, beyond what it counts as queued
HANDSHAKE_S = 31.0  # a second more than ZMQ_HANDSHAKE_IVL
RECONNECT_MS = 100
RECONNECT_MAX_MS = 2000
SHIPPER_SIZE = 16  # bytes of the id that a spool file or a process has
LOAD_SIZE = 1024 * 1024  # bytes of a spool that are brought into memory at once
LOG_SUFFIX = "-wal"  # of SQLite's write-ahead log
MOST_LEFT_BEHIND = 64  # files of a spool that are taken over at once
SYNC_INTERVAL_S = 0.02
QUICK_SYNC_S = 0.002
SPOOL_RETRY_S = 1.0
LOOK_INTERVAL_S = 1.0
STILL_WORKING_S = 2.0  # rsyslog's confirmTimeout is 10 s
PROGRESS_S = 0.5
SHORTEST_INTERVAL_S = 0.001
LARGEST_INT = 2**31 - 1  # of C, which libzmq's options have


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


def refuse_constant(name: str) -> NoReturn:
    """For a JSON decoder: NaN and Infinity are not JSON. Raises ValueError."""
    raise ValueError(f"{name} is not JSON")


# Numbers stay text: they are never used, and Python refuses to read very long ones.
STRICT_JSON = json.JSONDecoder(
    parse_constant=refuse_constant, parse_int=str, parse_float=str
).decode


class EventFormat:
    """Makes the messages of a chunk. Pure.

    A logstash event is a head, the line, and a tail that all lines of a chunk share, so that a
    chunk becomes events by replacing its LFs.
    """

    HEAD = b'{"message":"'

    def __init__(self, options: argparse.Namespace, pid: int) -> None:
        self.batch: int = options.batch  # events in a message, at most
        self.timestamps = options.timestamp
        self.least_size = 2  # bytes of an event on the wire: the frame's head (RFC 23)
        self._format = options.format
        forms = {"logstash": self._logstash, "json": self._json, "raw": self._raw}
        self._make = forms[options.format]
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
        if self._format == "raw":
            return text
        pairs = self._pairs_at(read_at_ms)
        event = self._spliced(text, pairs) if self._format == "json" else None
        event = event or self._event(text, self._tail(pairs))
        return event if self.batch == 1 else b"[" + event + b"]"

    def _pairs_at(self, read_at_ms: int) -> dict[str, bytes]:
        if not self.timestamps:
            return self._pairs
        stamp = b'"@timestamp":"%b"' % iso8601(read_at_ms).encode()
        return {**self._pairs, "@timestamp": stamp}

    def _tail(self, pairs: dict[str, bytes]) -> bytes:
        return b'",' + b",".join(pairs.values()) + b"}"

    def _event(self, text: bytes, tail: bytes) -> bytes:
        return self.HEAD + json_escaped(text).replace(b"\n", b"\\n") + tail

    def _logstash(self, lines: bytes, pairs: dict[str, bytes]) -> list[bytes]:
        head, tail = self.HEAD, self._tail(pairs)
        text = json_escaped(lines)
        if self.batch == 1:
            events = text.replace(b"\n", tail + b"\n" + head).split(b"\n")
            events[0] = head + events[0]
            events[-1] += tail
            return events
        return self._arrays(text.split(b"\n"), head, tail)

    def _json(self, lines: bytes, pairs: dict[str, bytes]) -> list[bytes]:
        tail = self._tail(pairs)
        events = [
            self._spliced(line, pairs) or self._event(line, tail) for line in lines.split(b"\n")
        ]
        return events if self.batch == 1 else self._arrays(events, b"", b"")

    def _raw(self, lines: bytes, pairs: dict[str, bytes]) -> list[bytes]:
        return lines.split(b"\n")

    def _arrays(self, texts: list[bytes], head: bytes, tail: bytes) -> list[bytes]:
        between = tail + b"," + head
        starts = range(0, len(texts), self.batch)
        return [
            b"[" + head + between.join(texts[start : start + self.batch]) + tail + b"]"
            for start in starts
        ]

    @staticmethod
    def _spliced(line: bytes, pairs: dict[str, bytes]) -> bytes | None:
        """`line` with the `pairs` it lacks, where it is a JSON object; else None."""
        if b"{" not in line:
            return None
        try:
            members = STRICT_JSON(line.decode())
        except (ValueError, RecursionError):
            return None
        if not isinstance(members, dict):
            return None
        lacking = [pair for name, pair in pairs.items() if name not in members]
        if not lacking:
            return line
        opened = line.rstrip(b" \t\r\n")[:-1]
        return opened + (b"," if members else b"") + b",".join(lacking) + b"}"


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
        self.has_cut = False
        self._max_line = max_line
        self._tail: list[bytes] = []  # the beginning of a line whose end has not come yet
        self._tail_size = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream, return the lines that are whole now."""
        end = data.rfind(b"\n") + 1
        lines = b""
        if end:
            lines = b"".join([*self._tail, data[:end]])
            if b"\r" in lines:
                lines = lines.replace(b"\r\n", b"\n")
            if 0 < self._max_line < len(lines):
                lines = self._cut(lines)
            self._tail, self._tail_size = [], 0
        if end < len(data):
            self._tail.append(data[end:])
            self._tail_size += len(data) - end
            if 0 < self._max_line < self._tail_size:
                lines += self._cut_tail()
        return lines

    def end(self) -> bytes:
        """Return the last line, which has no line end."""
        tail = b"".join(self._tail)
        self._tail, self._tail_size = [], 0
        return self._cut(tail + b"\n") if tail else b""

    def _cut(self, lines: bytes) -> bytes:
        whole = lines[:-1].split(b"\n")
        if not self._max_line or max(map(len, whole)) <= self._max_line:
            return lines
        self.has_cut = True
        cut = [piece for line in whole for piece in pieces(line, self._max_line)]
        return b"\n".join(cut) + b"\n"

    def _cut_tail(self) -> bytes:
        tail = b"".join(self._tail)
        undecided = b"\r" if tail.endswith(b"\r") else b""  # half of a line end, or of the line
        *cut, rest = pieces(tail[: len(tail) - len(undecided)], self._max_line)
        self.has_cut = self.has_cut or bool(cut)
        self._tail = [rest + undecided]
        self._tail_size = len(self._tail[0])
        return b"".join(piece + b"\n" for piece in cut)


class Pace:
    """Tells how long to gather input before reading it. Pure; times in seconds, sizes in bytes.

    A wake-up costs as much as dozens of lines. A source that wakes us seldom is read at once;
    one that writes line by line thousands of times a second is left to write for a few
    milliseconds, and its lines are taken together, as network drivers moderate interrupts.
    """

    WAKES = 16  # after so many wake-ups the pace is judged anew
    SELDOM = 2000  # writes a second that are taken one by one
    LONGEST_S = 0.02
    SHORTEST_S = 0.001  # epoll cannot wait less
    GATHERED = 24 * 1024  # a part of a pipe: the writer must not find it full

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._wakes = 0
        self._bytes = 0
        self._since = 0.0
        self._write_size = 1.0

    def took(self, size: int) -> None:
        """Count `size` bytes read."""
        self._bytes += size

    def woken(self, now: float) -> float:
        """Count a wake-up at `now`; return how long to wait before reading."""
        self._wakes += 1
        if self._wakes >= self.WAKES:
            rate = self._bytes / max(now - self._since, 1e-9)
            if not self._pause_s:
                self._write_size = max(self._bytes / self._wakes, 1.0)
            frequent = rate / self._write_size > self.SELDOM
            pause_s = min(self.LONGEST_S, self.GATHERED / rate) if frequent else 0.0
            self._pause_s = pause_s if pause_s >= self.SHORTEST_S else 0.0
            self._wakes, self._bytes, self._since = 0, 0, now
        return self._pause_s


class Stdin:
    """Descriptor 0 as an asynchronous source of bytes, whatever it is.

    It is made non-blocking and watched by an edge-triggered epoll (epoll(7)). O_NONBLOCK belongs
    to the open file, which others may share: `close()` puts it back. A terminal is shared with
    the shell and with stdout, so that one is opened anew, and if that is not allowed, stays
    blocking and is asked before each read. epoll refuses what is always ready, such as a
    regular file, with EPERM.
    """

    def __init__(self, on_ready: Callable[[], None], pace: Pace | None = None) -> None:
        """`on_ready` is called when there is something to read; `pace` None: at once.

        Raises OSError where descriptor 0 cannot be read.
        """
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
        self._allowance = math.inf  # bytes that may still be read
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._empty = False  # nothing to read until epoll tells
        self._hung_up = False  # and it will not tell again
        self._take: Callable[[bytes], bool] | None = None  # see read_message()
        self._unread = b""  # what was read and nobody has got yet
        self._pace = pace
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
        try:
            self._epoll.register(self._fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        except PermissionError:
            self.always_ready = True
            return
        self.always_ready = False
        self._loop.add_reader(self._epoll.fileno(), self._on_epoll)
        if not self._terminal:
            fcntl.fcntl(0, fcntl.F_SETFL, self._flags | os.O_NONBLOCK)

    def close(self) -> None:
        """Put the flags of the open file back, and let go of it; may be called again.

        Who goes on writing into a pipe must learn that nobody reads it any more.
        """
        if self._epoll.closed:
            return
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if not self._terminal:
            fcntl.fcntl(0, fcntl.F_SETFL, self._flags)
        elif self._fd:
            os.close(self._fd)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)

    async def read(self) -> bytes:
        """Wait for input; return what is there, b"" at the end. Raises OSError."""
        while self._allowance:
            if self._empty:
                if self._allowance < math.inf:
                    break
                await self._until_ready()
            else:
                await asyncio.sleep(0)  # there may be more: let others have their turn
            try:
                data = self._unread or self._read_now()
            except BlockingIOError:
                self._empty = True
                continue
            except OSError:
                if self._terminal:  # EIO: it has hung up
                    break
                raise
            self._unread = b""
            self._allowance -= len(data)
            if self._pace:
                self._pace.took(len(data))
            self.taken += len(data)
            return data
        return b""

    def _read_now(self) -> bytes:
        if self._terminal and not select.select([self._fd], [], [], 0)[0]:
            raise BlockingIOError
        size = int(min(READ_SIZE, self._allowance))
        count = os.readv(self._fd, [self._buffer[:size]])
        return bytes(self._buffer[:count])

    async def read_message(self, take: Callable[[bytes], bool]) -> bytes:
        """Wait for lines with nothing behind them; return them all, b"" at the end. Raises OSError.

        Those that come in one piece are first offered to `take`, at once: it saves two turns of
        the event loop, half the time. What it takes is not returned. What has no line end when
        the input ends was not written to its end.
        """
        parts = []
        self._take = take
        while data := await self.read():
            self._take = None
            parts.append(data)
            if data.endswith(b"\n") and not self._held():
                # To see that by reading would take a turn.
                self._empty = not (self._hung_up or self.always_ready)
                return b"".join(parts)
        return b""

    def widen(self) -> None:
        """Let a pipe hold as much as a user may ask for: what fits is there all at once."""
        with contextlib.suppress(OSError):  # no pipe, or a smaller limit (pipe(7))
            fcntl.fcntl(0, F_SETPIPE_SZ, PIPE_SIZE)

    async def gather(self, pause_s: float) -> None:
        """Let input come for so long, if at all; what comes does not wake us."""
        if pause_s > 0 and not self.always_ready:
            self._loop.remove_reader(self._epoll.fileno())
            await asyncio.sleep(pause_s)
            self._loop.add_reader(self._epoll.fileno(), self._on_epoll)

    def finish(self) -> None:
        """Let the input end, after what a pipe, socket or terminal holds at this moment."""
        self._allowance = 0 if self.always_ready or self._epoll.closed else self._held()
        self._allowance += len(self._unread)
        self._empty = False
        self._wake()

    def _held(self) -> int:
        """How many bytes there are to read, in a pipe, socket or terminal (ioctl_tty(2))."""
        held = bytearray(4)  # an int
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, termios.FIONREAD, held)
            return int.from_bytes(held, sys.byteorder)
        return READ_SIZE  # others do not tell, /dev/kmsg for one: some

    async def _until_ready(self) -> None:
        await self._ready
        self._ready = self._loop.create_future()
        self._empty = False
        if self._pace:
            await self.gather(self._pace.woken(self._loop.time()))

    def _on_epoll(self) -> None:
        # Of a pipe alone: its end is told again and again, that of a terminal is read once.
        if self._pipe and self._take and not self._ready.done() and self._was_taken(self._take):
            return  # without data there is no event any more
        events = self._epoll.poll(0)  # to take the event is what clears the edge
        for _, event in events:
            self._hung_up |= bool(event & (select.EPOLLHUP | select.EPOLLRDHUP))
        if events or self._unread:
            self._wake()
            self._on_ready()

    def _was_taken(self, take: Callable[[bytes], bool]) -> bool:
        """Whether `take` took what there is to read."""
        try:
            data = self._read_now()
        except OSError:  # read() will meet it, too
            return False
        if data.endswith(b"\n") and not self._held() and take(data):
            self.taken += len(data)
            return True
        self._unread = data
        return False

    def _wake(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)


async def stdin_queuer(stdin: Stdin, splitter: LineSplitter, backlog: Backlog) -> bool:
    """Put the lines of stdin into the backlog until they end.

    Returns whether they ended well: where reading failed, a line on stderr has said why.
    """
    complete = True
    warned = False
    try:
        while data := await stdin.read():
            await backlog.put(splitter.feed(data))
            if splitter.has_cut and not warned:
                warned = True
                say("a line is longer than --max-line; such lines are sent in pieces")
            await backlog.room()
            await stdin.gather(backlog.rest_s())
    except OSError as error:
        say(f"cannot read standard input: {error.strerror}")
        complete = False
    finally:
        stdin.close()
    await backlog.put(splitter.end())
    await backlog.end()
    return complete


# ---- backlog ----------------------------------------------------------------------------------


class Chunk:
    """Whole lines, each ended by LF, that are sent together."""

    __slots__ = ("_count", "_form", "_parts", "number", "read_at_ms", "size")

    def __init__(self, form: EventFormat, lines: bytes, read_at_ms: int) -> None:
        self.number = 0  # of a chunk that somebody took
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

    @property
    def batch(self) -> int:
        """Events in a message; in the last one, at most."""
        return self._form.batch

    def text(self) -> bytes:
        """The messages in one piece, with LF between them; if it is one, it may have any bytes."""
        return b"\n".join(self.messages())

    def count(self) -> int:
        """How many events it has."""
        self._count = self._count or sum(part.count(b"\n") for part in self._parts)
        return self._count


class Finished:
    """Messages that are ready to be sent, each of them up to `batch` events."""

    __slots__ = ("_count", "_messages", "_text", "batch", "file", "number", "size")

    def __init__(
        self, text: bytes, count: int, batch: int, messages: list[bytes] | None = None
    ) -> None:
        self.number = 0  # of a chunk that somebody took, or a file has
        self.file: SpoolFile | None = None
        self.batch = batch
        self.size = len(text) + 1  # as much as the lines of a Chunk: the LF counts
        self._text = text
        self._count = count
        self._messages = messages

    def messages(self) -> list[bytes]:
        """What is sent."""
        if self._messages:
            return self._messages
        return self._text.split(b"\n") if self._count > self.batch else [self._text]

    def text(self) -> bytes:
        """The messages in one piece, with LF between them; if it is one, it may have any bytes."""
        return self._text

    def count(self) -> int:
        """How many events it has."""
        return self._count

    @classmethod
    def of_row(cls, events: int, batch: int, crc: int, text: bytes) -> Finished:
        """The one that `row()` described. Raises ValueError where that cannot be."""
        with contextlib.suppress(TypeError):  # from a damaged file comes anything
            chunk = cls(text, events, batch)
            if chunk._crc() == crc:
                return chunk
        raise ValueError

    def row(self) -> tuple[int, int, int, bytes]:
        """What is kept in a spool file: events, batch, CRC-32, text."""
        return self._count, self.batch, self._crc(), self._text

    def _crc(self) -> int:
        return zlib.crc32(self._text, zlib.crc32(b"%d %d" % (self._count, self.batch)))


def trim_memory() -> None:
    """Give back to the kernel what glibc's malloc keeps for later (malloc_trim(3))."""
    import ctypes

    with contextlib.suppress(AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


class Backlog:
    """What was read and is not sent yet: an unbounded asyncio.Queue of chunks, and its size.

    `limit` (bytes; 0: none) is the one signal that goes upstream: while so much waits, `room()`
    does not return, stdin is not read, and whoever writes there is held back.
    """

    def __init__(self, limit: int, form: EventFormat) -> None:
        self.sent = 0  # events taken by libzmq
        self.size = 0  # bytes that wait
        self.last_sent_at = 0.0  # time.monotonic()
        self.limit = limit
        self.unanswered = 0  # events of those that wait which rsyslog keeps, too
        self.send_now: Callable[[bytes], bool] = lambda message: False  # whether libzmq took it
        self._form = form
        self._peak = 0  # of size, since memory was given back
        self._room = asyncio.Event()
        self._queue: asyncio.Queue[Chunk | Finished | None] = asyncio.Queue()
        self._news = asyncio.get_running_loop().create_future()
        self._youngest: Chunk | None = None  # the last one put, while nobody has taken it
        self._in_hand: collections.deque[Chunk | Finished] = collections.deque()  # not done yet
        self._sent_before = 0  # of `sent`, before the one that is being sent
        self._id = os.urandom(SHIPPER_SIZE)
        self._numbers = 0  # that were given

    def announce(self) -> None:
        """Wake who waits in `get()`: a chunk is there, or will be when its turn comes.

        stdin is about to be read then, in the same turn of the event loop. To wait for the chunk
        itself would take one more, a tenth of the time from line to message.
        """
        if not self._news.done():
            self._news.set_result(None)

    async def put(self, lines: bytes) -> None:
        """Append `lines`, read just now, to the youngest chunk if that waits and is small."""
        if not lines:
            return
        read_at_ms = self._now_ms()
        youngest = self._youngest
        if youngest and youngest.size < CHUNK_SIZE and youngest.read_at_ms == read_at_ms:
            youngest.add(lines)
        else:
            self._youngest = Chunk(self._form, lines, read_at_ms)
            self._queue.put_nowait(self._youngest)
            self.announce()
        self._grown(len(lines))

    def put_at_once(self, text: bytes) -> bool:
        """Whether `text`, read just now, could be put, as one event, without waiting: it was sent.

        Where something waits in the queue it cannot, for it must not overtake.
        """
        if self.size or not self.send_now(self._form.message(text, self._now_ms())):
            return False
        self.sent += 1
        self._sent_before = self.sent
        self.last_sent_at = time.monotonic()
        return True

    def save_at_once(self, text: bytes) -> bool:
        """As `put_at_once()`; and it is safe then."""
        return self.put_at_once(text)

    def put_event(self, text: bytes) -> None:
        """Append `text`, read just now, as one event, whatever is in it."""
        chunk = Finished(self._form.message(text, self._now_ms()), 1, self._form.batch)
        self._youngest = None
        self._queue.put_nowait(chunk)
        self.announce()
        self._grown(chunk.size)

    async def safe(self) -> None:
        """Return when nothing that was put waits any more: libzmq has taken it."""
        while self.size:
            self._room.clear()
            await self._room.wait()

    async def end(self) -> None:
        """Nothing more will be put."""
        self._queue.put_nowait(None)
        self.announce()

    async def get(self) -> Chunk | Finished | None:
        """Wait for the oldest chunk; None at the end."""
        if not self._queue.empty():
            await asyncio.sleep(0)  # nothing to wait for: let stdin and signals have their turn
        while self._queue.empty():
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        chunk = self._queue.get_nowait()
        if chunk is self._youngest:
            self._youngest = None
        if chunk:
            self._numbers += 1
            chunk.number = self._numbers
            self._in_hand.append(chunk)
        return chunk

    def shipper_of(self, chunk: Chunk | Finished) -> bytes:
        """Whose it is: 16 bytes, which belong to this process or to a file."""
        return self._id

    def done(self, chunk: Chunk | Finished, messages: int) -> None:
        """`chunk` was taken by libzmq, or acknowledged, whole, as so many messages."""
        self._in_hand.remove(chunk)
        self._sent_before = self.sent
        self.size -= chunk.size
        self.last_sent_at = time.monotonic()
        self._room.set()
        if not self.size and self._peak >= WORTH_TRIMMING:
            self._peak = 0
            trim_memory()

    def waiting(self) -> int:
        """How many events wait (a long line counts its pieces). Goes once around the queue."""
        count = sum(chunk.count() for chunk in self._in_hand) - (self.sent - self._sent_before)
        for _ in range(self._queue.qsize()):
            chunk = self._queue.get_nowait()
            count += chunk.count() if chunk else 0
            self._queue.put_nowait(chunk)
        return count

    def rest_s(self) -> float:
        """How long what comes next may gather before it is put."""
        return 0.0

    async def room(self) -> None:
        """Wait until less than the limit waits."""
        while self.limit and self.size >= self.limit:
            self._room.clear()
            await self._room.wait()

    def lift_limit(self) -> None:
        """The end is near: what is still read is taken."""
        self.limit = 0
        self._room.set()

    def close(self, delivered: bool) -> None:
        """Everything was `delivered`, or nobody tries any longer."""

    def _now_ms(self) -> int:
        """Since the epoch; 0 where nobody asks for it."""
        return time.time_ns() // 1_000_000 if self._form.timestamps else 0

    def _grown(self, size: int) -> None:
        self.size += size
        self._peak = max(self._peak, self.size)


# ---- spool ------------------------------------------------------------------------------------


def open_and_lock(path: str, flags: int = 0) -> int | None:
    """A descriptor that holds the lock of the file at `path`; None where another holds it.

    Raises OSError.
    """
    try:
        descriptor = os.open(path, flags | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # whoever held it has removed it
        return None
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_file_at(path, descriptor):
            return descriptor
    os.close(descriptor)
    return None


def is_file_at(path: str, descriptor: int) -> bool:
    """Whether the file at `path` is the one that `descriptor` has open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def sync_directory(path: str) -> None:
    """Return when the names of the files in it are on the disk (fsync(2)). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_database(path: str) -> None:
    """Remove an SQLite database that nobody has open, and its write-ahead log. Raises OSError."""
    os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + LOG_SUFFIX)


def put_aside(path: str, error: Exception) -> None:
    """Give a damaged database another name, under which nobody looks for it."""
    say(f"{path} is damaged ({error}): it is kept as {path}.damaged")
    for suffix in ("", LOG_SUFFIX):
        with contextlib.suppress(OSError):
            os.rename(path + suffix, path + ".damaged" + suffix)


def allow_open_files() -> None:
    """Allow as many as the system does: each file of a spool takes three (getrlimit(2))."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def reason(error: Exception) -> str:
    """What the system or SQLite says."""
    return getattr(error, "strerror", None) or str(error)


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file is no good, not that it cannot be used just now."""
    return type(error) is sqlite3.DatabaseError


class SpoolFile:
    """Chunks on disk: SQLite in WAL mode, locked (flock(2)) by the process that holds it.

    Its rows are chunks of finished messages, so that whoever sends them, they are as they were
    meant. A number is never used again. What is appended outlives the process at once, and a loss
    of power after `sync()`. All methods raise sqlite3.Error, and OSError.
    """

    SUFFIX = ".spool"
    PAGE_SIZE = 8 * 1024  # bytes
    SETTINGS = f"""
        PRAGMA locking_mode = EXCLUSIVE;  -- the first one, for no -shm file to be made
        PRAGMA page_size = {PAGE_SIZE};
        PRAGMA journal_mode = WAL;
        PRAGMA wal_autocheckpoint = 256;  -- pages
        PRAGMA cache_size = -4000;  -- kB: what is deleted soon need not be read again for that
        PRAGMA secure_delete = OFF;  -- Debian zeroes what is deleted
        PRAGMA synchronous = NORMAL;  -- syncs before a checkpoint; sync() does it when it matters
        CREATE TABLE IF NOT EXISTS shipper (id TEXT NOT NULL);
        INSERT INTO shipper SELECT lower(hex(randomblob({SHIPPER_SIZE})))
            WHERE NOT EXISTS (SELECT 1 FROM shipper);
        CREATE TABLE IF NOT EXISTS chunk (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            events INTEGER NOT NULL,
            batch INTEGER NOT NULL,  -- events in a message
            crc INTEGER NOT NULL,  -- CRC-32 of the text
            text BLOB NOT NULL  -- the messages, with LF between them
        );
    """

    def __init__(self, path: str, lock: int) -> None:
        """Open the file at `path`, which the descriptor `lock` has locked; both are ours then."""
        self.path = path
        self._lock = lock
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._db.executescript(self.SETTINGS)
            self.events: int  # not sent yet
            self.size: int  # of those, in bytes
            self.events, self.size, first = self._db.execute(
                "SELECT coalesce(sum(events), 0), coalesce(sum(length(text) + 1), 0), "
                "coalesce(min(number), 1) FROM chunk"
            ).fetchone()
            self.id = self._read_id()
            self._log = os.open(path + LOG_SUFFIX, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, sqlite3.Error):
            self._db.close()
            raise
        self.closed = False
        self.loaded = first - 1  # number of the last chunk that was loaded
        self.forgotten = first - 1  # of the last one that was deleted

    @classmethod
    def create(cls, directory: str) -> SpoolFile:
        """A new one in `directory`, which is made where it is missing."""
        path, lock = cls._new(directory)
        try:
            file = cls(path, lock)
            file.sync()
            sync_directory(directory)
        except (OSError, sqlite3.Error):
            remove_database(path)
            os.close(lock)
            raise
        return file

    @classmethod
    def adopt(cls, path: str) -> SpoolFile | None:
        """The one at `path`; None where another process holds it, or it is no file at all."""
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        lock = open_and_lock(path)
        if lock is None:
            return None
        try:
            return cls(path, lock)
        except (OSError, sqlite3.Error):
            os.close(lock)
            raise

    @classmethod
    def _new(cls, directory: str) -> tuple[str, int]:
        """The path and the locked descriptor of a new, empty file."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        while True:  # until nobody was so quick to adopt it before it was locked
            path = os.path.join(directory, f"{time.time_ns():020}-{os.getpid()}{cls.SUFFIX}")
            lock = open_and_lock(path, os.O_CREAT | os.O_EXCL)
            if lock is not None:
                return path, lock

    def _read_id(self) -> bytes:
        (name,) = self._db.execute("SELECT id FROM shipper").fetchone()
        with contextlib.suppress(TypeError, ValueError):
            shipper = bytes.fromhex(name)
            if len(shipper) == SHIPPER_SIZE:
                return shipper
        raise sqlite3.DatabaseError("the shipper's id is not as it was written")

    def append(self, chunk: Finished) -> None:
        """Add `chunk` and number it, or raise.

        A part of the disk is left free: without, nothing could be deleted either.
        """
        if self._disk_is_full(chunk.size):
            with contextlib.suppress(sqlite3.Error):  # for that, too, there must be some room
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if self._disk_is_full(chunk.size):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        insert = "INSERT INTO chunk (events, batch, crc, text) VALUES (?, ?, ?, ?)"
        number = self._db.execute(insert, chunk.row()).lastrowid
        assert number is not None
        chunk.file, chunk.number = self, number
        self.events += chunk.count()
        self.size += chunk.size

    def _disk_is_full(self, size: int) -> bool:
        disk = os.fstatvfs(self._lock)
        short = disk.f_bavail * disk.f_frsize < DISK_RESERVE + size
        return short and self._free() * self.PAGE_SIZE < size

    def sync(self) -> None:
        """Return when what was appended is on the disk. On any thread."""
        os.fdatasync(self._log)

    def load(self, until: float = math.inf) -> list[Finished]:
        """The next chunks up to the number `until`, about LOAD_SIZE bytes.

        What is damaged is met after all that is not.
        """
        select = "SELECT number, events, batch, crc, text FROM chunk WHERE number > ? ORDER BY 1"
        chunks: list[Finished] = []
        size = 0
        try:
            nothing = self.closed or self.loaded >= until
            for number, *row in () if nothing else self._db.execute(select, (self.loaded,)):
                if number > until or size >= LOAD_SIZE:
                    break
                chunk = Finished.of_row(*row)
                chunk.file, chunk.number = self, number
                chunks.append(chunk)
                size += chunk.size
                self.loaded = number
        except (sqlite3.DatabaseError, ValueError) as error:
            if not chunks:
                if isinstance(error, ValueError):
                    raise sqlite3.DatabaseError(
                        f"chunk {number} is not as it was written"
                    ) from None
                raise
        return chunks

    def forget(self, number: int) -> None:
        """Delete the chunks up to `number`."""
        if not self.closed:
            self._db.execute("DELETE FROM chunk WHERE number <= ?", (number,))
        self.forgotten = number

    def shrink(self) -> None:
        """Give the disk back what is no longer used, if that is worth it: by a smaller copy."""
        if not self.closed and self._free() * self.PAGE_SIZE > max(WORTH_TRIMMING, self.size):
            self.move()

    def _free(self) -> int:
        """How many pages have nothing in them."""
        (count,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return int(count)

    def is_in_place(self) -> bool:
        """Whether the file at the path is still this one."""
        return is_file_at(self.path, self._lock)

    def move(self) -> None:
        """Go on in a new file of the same directory, with all that this one has."""
        path, lock = self._new(os.path.dirname(self.path))
        try:
            # As bytes: Python would refuse a path that is not UTF-8.
            self._db.execute("VACUUM INTO CAST(? AS TEXT)", (os.fsencode(path),))
            os.fsync(lock)
            moved = SpoolFile(path, lock)
            sync_directory(os.path.dirname(path))
        except (OSError, sqlite3.Error):
            remove_database(path)
            os.close(lock)
            raise
        if self.is_in_place():
            remove_database(self.path)
        self.let_go()
        vars(self).update(path=path, _lock=lock, _db=moved._db, _log=moved._log, closed=False)

    def close(self) -> None:
        """Close it, and remove it if it is empty."""
        empty = not self._db.execute("SELECT 1 FROM chunk LIMIT 1").fetchall()
        self._db.close()  # this removes the log: alone, nobody would
        if empty and self.is_in_place():
            remove_database(self.path)
        self.let_go()

    def let_go(self) -> None:
        """Close it as it is."""
        self.closed = True
        self._db.close()
        os.close(self._log)
        os.close(self._lock)  # the last one, for with any descriptor of a file go SQLite's locks


class Spool(Backlog):
    """A backlog on disk, in files under one directory: in memory is what is sent next.

    It begins with the files that others have left behind there, oldest first. A chunk is deleted
    when as many later messages were sent as libzmq can hold, or libzmq has delivered everything.
    """

    def __init__(
        self, directory: str, limit: int, form: EventFormat, held: Callable[[], int]
    ) -> None:
        """`held` tells how many messages libzmq can hold. Raises OSError and sqlite3.Error."""
        super().__init__(limit, form)
        self.unsaved = 0  # events that were put and are not on disk yet
        self._directory = os.path.abspath(directory)
        self._held = held
        allow_open_files()
        self._own = SpoolFile.create(self._directory)
        self._files = [self._own]  # all that we hold
        self._left_behind: collections.deque[SpoolFile] = collections.deque()  # not loaded whole
        self._refused: set[str] = set()  # paths that cannot be opened
        self._fresh: list[Finished] = []  # chunks of ours that are not synced
        self._again: list[Finished] = []  # of a damaged file, to append to another; the last first
        self._synced = 0  # number of our last one that is
        self._put_size = 0  # bytes that were put at a time
        self._synced_at = 0.0
        self._sync_s = 0.0  # how long it took
        self._loaded: collections.deque[Finished] = collections.deque()
        self._loaded_size = 0
        self._turn_size = 0  # bytes that were taken since others had their turn
        self._messages = 0  # that were sent
        # What may still be in this process: file, number, events, and _messages after it.
        self._uncertain: collections.deque[tuple[SpoolFile, int, int, int]] = collections.deque()
        self._will_forget = False
        self._gone: dict[SpoolFile, int] = {}  # numbers up to which they are to be deleted
        self._look_at = 0.0  # time.monotonic(), for files of others
        self._will_look = False  # though nothing else happens
        self._told = False  # that it could not be written, since it last ran empty
        self._ended = False
        self._adopt()

    # what stdin_queuer and omprog_queuer call

    async def put(self, lines: bytes) -> None:
        """Journal `lines`, read just now; where that cannot be, wait until it can."""
        if not lines:
            return
        form = self._form
        messages = form.messages(lines, self._now_ms())
        count = len(messages) if form.batch == 1 else lines.count(b"\n")
        chunk = Finished(b"\n".join(messages), count, form.batch, messages)
        self.unsaved = count
        while self.unsaved or self._fresh or self._again:
            try:
                if self.unsaved:
                    self._append(chunk)
                self.unsaved = 0
                await self.safe()
            except (OSError, sqlite3.Error) as error:
                if not self._told:
                    say(f"cannot write to the spool: {reason(error)}; reading on when that is over")
                self._told = True
                await asyncio.sleep(SPOOL_RETRY_S)
                self._forget_what_left()  # which may have failed as well
        self._put_size = chunk.size

    def rest_s(self) -> float:
        """How long what comes next may gather, to share a sync, before it is put."""
        is_small = self._put_size < Pace.GATHERED
        return self._synced_at + SYNC_INTERVAL_S - time.monotonic() if is_small else 0.0

    def put_at_once(self, text: bytes) -> bool:
        """Whether `text` could be put without waiting. Raises OSError and sqlite3.Error."""
        if 0 < self.limit <= self.size:
            return False
        self.put_event(text)
        return True

    def save_at_once(self, text: bytes) -> bool:
        """As `put_at_once()`; and it is on the disk then. Raises OSError and sqlite3.Error."""
        if self._sync_s >= QUICK_SYNC_S or not self.put_at_once(text):
            return False
        self._sync()
        return True

    def put_event(self, text: bytes) -> None:
        """Append `text`, read just now, as one event. Raises OSError and sqlite3.Error."""
        self._append(Finished(self._form.message(text, self._now_ms()), 1, self._form.batch))

    async def safe(self) -> None:
        """Return when all that was put is on the disk. Raises OSError and sqlite3.Error."""
        self._renew()
        if not self._fresh:
            return
        if self._sync_s < QUICK_SYNC_S and not self._loaded:
            self._sync()  # to go to a thread and back takes as long, and nothing could be sent
            return
        own = self._own
        self._synced_at = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(None, own.sync)
        if own.closed:  # meanwhile it was found to be damaged
            await self.safe()
        else:
            self._now_synced()

    def _sync(self) -> None:
        self._synced_at = time.monotonic()
        self._own.sync()
        self._now_synced()

    def _now_synced(self) -> None:
        """All that was put is on the disk, and can be sent."""
        own = self._own
        self._sync_s = time.monotonic() - self._synced_at
        self._stay_in_place()
        for chunk in self._fresh:
            # If it comes next, and there is room, it need not be read again.
            in_turn = self._synced == own.loaded == chunk.number - 1 and not self._left_behind
            if in_turn and self._loaded_size < LOAD_SIZE:
                self._keep(chunk)
                own.loaded = chunk.number
            self._synced = chunk.number
        self._fresh.clear()
        self.announce()

    async def room(self) -> None:
        """Wait until less than the limit waits; what is not synced could not be sent."""
        if 0 < self.limit <= self.size:
            await self.safe()
        await super().room()

    async def end(self) -> None:
        """Nothing more will be put."""
        try:
            await self.safe()
        except (OSError, sqlite3.Error) as error:
            say(f"cannot write to the spool: {reason(error)}")
        self._ended = True
        self.announce()

    def _stay_in_place(self) -> None:
        """Where files of ours were taken away, write what they had to new ones, in their order."""
        for file in sorted(self._files, key=lambda file: file.path):
            if not file.is_in_place():
                file.move()
                say(f"the spool was taken away; what it had to send is in {file.path} now")

    def _append(self, chunk: Finished) -> None:
        self._renew()
        try:
            self._own.append(chunk)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self._put_aside(self._own, error)
            self._append(chunk)
        else:
            self._fresh.append(chunk)
            self._grown(chunk.size)

    def _renew(self) -> None:
        """If our file was damaged, begin a new one, with what was not synced to that."""
        if self._own.closed:
            self._own, self._synced = SpoolFile.create(self._directory), 0
            self._files.append(self._own)
            self._again += reversed(self._fresh)
            self._fresh.clear()
        while self._again:
            chunk = self._again.pop()
            try:
                self._append(chunk)
            except (OSError, sqlite3.Error):
                self._again.append(chunk)
                raise

    # what zmq_pusher calls

    async def get(self) -> Finished | None:
        """Wait for the oldest chunk; None at the end."""
        if self._turn_size >= CHUNK_SIZE or not self._loaded:
            self._turn_size = 0
            await asyncio.sleep(0)  # let stdin and signals have their turn
        while not self._loaded:
            ended = self._ended
            self._news = asyncio.get_running_loop().create_future()
            self._load()
            if self._loaded:
                break
            if ended:
                return None
            self._told = self._told and self.unsaved > 0
            await self._news
        chunk = self._loaded.popleft()
        self._turn_size += chunk.size
        self._loaded_size -= chunk.size
        self._in_hand.append(chunk)
        return chunk

    def shipper_of(self, chunk: Chunk | Finished) -> bytes:
        """Whose it is: 16 bytes, which belong to this process or to a file."""
        return self._file_of(chunk).id

    def done(self, chunk: Chunk | Finished, messages: int) -> None:
        """`chunk` was taken by libzmq, whole, as so many messages."""
        super().done(chunk, messages)
        file = self._file_of(chunk)
        file.events -= chunk.count()
        file.size -= chunk.size
        self._messages += messages
        self._uncertain.append((file, chunk.number, chunk.count(), self._messages))
        if not self._will_forget:  # in the next turn of the event loop: many at once
            self._will_forget = True
            asyncio.get_running_loop().call_soon(self._forget_what_left)

    @staticmethod
    def _file_of(chunk: Chunk | Finished) -> SpoolFile:
        assert isinstance(chunk, Finished)
        assert chunk.file
        return chunk.file

    def _load(self) -> None:
        """Bring the next chunks into memory: what was left behind comes first."""
        while not self._loaded:
            file, until = self._own, float(self._synced)
            if self._left_behind:
                file, until = self._left_behind[0], math.inf
            try:
                chunks = file.load(until)
            except sqlite3.Error as error:
                self._put_aside(file, error)
                continue
            for chunk in chunks:
                self._keep(chunk)
            if chunks:
                return
            if file is not self._own:
                self._left_behind.popleft()
                self._let_go(file)
                continue
            self._adopt()
            if not self._left_behind:
                return

    def _keep(self, chunk: Finished) -> None:
        self._loaded.append(chunk)
        self._loaded_size += chunk.size

    def _forget_what_left(self) -> None:
        self._will_forget = False
        self._forget(self._held())

    def _forget(self, held: int) -> None:
        """Delete all chunks that `held` messages were sent after."""
        while self._uncertain and self._messages - self._uncertain[0][3] >= held:
            file, number, _, _ = self._uncertain.popleft()
            self._gone[file] = number
        for file, number in list(self._gone.items()):
            with contextlib.suppress(sqlite3.Error):  # a full disk: the next attempt may do it
                file.forget(number)
                del self._gone[file]
                self._let_go(file)

    # the files

    def _adopt(self) -> None:
        """Nothing waits: give disk back, and take over the files that nobody holds, oldest first.

        Not more often than once a second.
        """
        now = time.monotonic()
        if now < self._look_at:
            if not self._will_look:
                self._will_look = True
                asyncio.get_running_loop().call_later(self._look_at - now, self.announce)
            return
        self._will_look = False
        with contextlib.suppress(OSError, sqlite3.Error):  # then the next time
            self._own.shrink()
        ours = {file.path for file in self._files}
        try:
            names = sorted(os.listdir(self._directory))
        except OSError:
            return  # it was taken away; it comes back with what is put next
        for name in names:
            path = os.path.join(self._directory, name)
            if not name.endswith(SpoolFile.SUFFIX) or path in ours | self._refused:
                continue
            if len(self._left_behind) >= MOST_LEFT_BEHIND:
                return
            try:
                file = SpoolFile.adopt(path)
            except FileNotFoundError:  # somebody else was quicker
                continue
            except (OSError, sqlite3.Error) as error:
                self._refused.add(path)
                if is_damage(error):
                    put_aside(path, error)
                else:
                    say(f"{path}: {reason(error)}; it is left alone")
                continue
            if file:
                self._files.append(file)
                self._left_behind.append(file)
                self.size += file.size
        if not self._left_behind:
            self._look_at = now + LOOK_INTERVAL_S

    def _let_go(self, file: SpoolFile) -> None:
        """Close and remove `file` if all of it is gone and nothing will come."""
        finished = file.loaded == file.forgotten and file not in self._left_behind
        if finished and file is not self._own and not file.closed:
            self._files.remove(file)
            with contextlib.suppress(OSError, sqlite3.Error):
                file.close()

    def _put_aside(self, file: SpoolFile, error: sqlite3.Error) -> None:
        """`file` is damaged: go on with what was loaded, without it."""
        self._files.remove(file)
        with contextlib.suppress(ValueError):
            self._left_behind.remove(file)
        self.size -= file.size
        for chunk in [*self._loaded, *self._in_hand]:  # of these there is a copy in memory
            self.size += chunk.size if self._file_of(chunk) is file else 0
        self._room.set()
        file.let_go()
        put_aside(file.path, error)

    # the end

    def waiting(self) -> int:
        """How many events wait to be sent, those that cannot be written included."""
        count = sum(file.events for file in self._files) + self.unsaved + self.homeless()
        return count - (self.sent - self._sent_before)

    def homeless(self) -> int:
        """How many events are in memory alone, since their file was put aside."""
        chunks = [*self._in_hand, *self._loaded]
        return sum(chunk.count() for chunk in chunks if self._file_of(chunk) not in self._files)

    def _keep_in_place(self) -> None:
        """Let what is left be where the next start looks; what cannot be there is not saved."""
        try:
            self._stay_in_place()
        except (OSError, sqlite3.Error) as error:
            say(f"cannot write to the spool: {reason(error)}")
            for file in self._files:
                if not file.is_in_place():
                    self.unsaved += file.events
                    file.events = 0

    def uncertain(self) -> int:
        """How many events are kept although they were sent: they may still be in this process."""
        return sum(events for _, _, events, _ in self._uncertain) + self.sent - self._sent_before

    def close(self, delivered: bool) -> None:
        """Everything was `delivered`, or nobody tries any longer."""
        self._forget(0 if delivered else self._held())
        if not delivered:
            self._keep_in_place()
        for file in self._files:
            with contextlib.suppress(OSError, sqlite3.Error):  # then who comes next has to see
                file.close()


# ---- omprog -----------------------------------------------------------------------------------


class Omprog:
    """rsyslog's dialogue with a program, whose side we are (plugins/external/INTERFACE.md there).

    rsyslog writes a message, waits for the answer, and writes the next. It keeps a message until
    the answer is OK; any other text means that we do not have it, and it comes again. In a
    transaction OK is for the commit, and lines are answered DEFER_COMMIT: should we die, rsyslog
    8.2302 does not send those again, so that they are ours to keep.
    """

    def __init__(self, options: argparse.Namespace, backlog: Backlog) -> None:
        self.is_heard = True  # stdout is open
        self._backlog = backlog
        self._max_line = options.max_line
        self._transactions = options.omprog_transactions
        self._begin = os.fsencode(options.omprog_begin)
        self._commit = os.fsencode(options.omprog_commit)
        self._in_transaction = False
        self._asker: asyncio.Task[Any] | None = None  # who waits for an answer
        self._dots: asyncio.TimerHandle | None = None

    def write(self, text: str) -> None:
        """Write an answer, or a part of one. Without a reader there is no dialogue any more."""
        try:
            os.write(1, text.encode())
        except OSError as error:
            self.is_heard = False
            if error.errno != errno.EPIPE:
                say(f"cannot write to standard output: {error.strerror}")

    def answered_at_once(self, lines: bytes) -> bool:
        """Whether `lines`, a message, could be answered without waiting."""
        text = self._text(lines)
        is_mark = self._transactions and text in (self._begin, self._commit)
        if is_mark or len(text) > (self._max_line or len(text)):
            return False
        backlog = self._backlog
        try:
            if self._in_transaction:
                answer = "DEFER_COMMIT" if backlog.put_at_once(text) else ""
            else:
                answer = "OK" if backlog.save_at_once(text) else ""
        except (OSError, sqlite3.Error) as error:
            answer = self._refusal(error)
        if not answer:
            return False
        self.write(f"{answer}\n")
        return self.is_heard

    async def answer(self, lines: bytes) -> None:
        """Do what `lines`, a message, ask for, and answer when that can be said; dots meanwhile."""
        self._asker = asyncio.current_task()
        if not self._dots:  # a timer for each message would take a tenth of the time
            self._dot_later()
        try:
            answer = await self._do(self._text(lines))
        except (OSError, sqlite3.Error) as error:
            answer = self._refusal(error)
        finally:
            self._asker = None
        self._backlog.unanswered = 0
        self.write(f"{answer}\n")

    @staticmethod
    def _refusal(error: Exception) -> str:
        return f"cannot write to the spool: {reason(error)}"

    @staticmethod
    def _text(lines: bytes) -> bytes:
        """Without the line end."""
        return lines[:-2] if lines.endswith(b"\r\n") else lines[:-1]

    async def _do(self, text: bytes) -> str:
        backlog = self._backlog
        if self._transactions and text == self._begin:
            self._in_transaction = True
            return "OK"
        if self._transactions and text == self._commit:
            self._in_transaction = False
            await backlog.safe()
            return "OK"
        await backlog.room()
        events = list(pieces(text, self._max_line or len(text)))
        for event in events:
            backlog.put_event(event)
        if self._in_transaction:
            return "DEFER_COMMIT"
        backlog.unanswered = len(events)
        await backlog.safe()
        return "OK"

    def _dot_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._dots = loop.call_later(STILL_WORKING_S, self._still_working)

    def _still_working(self) -> None:
        self._dots = None
        if self._asker:
            self.write(".")
            if self.is_heard:
                self._dot_later()
            else:
                self._asker.cancel()


async def omprog_queuer(stdin: Stdin, omprog: Omprog, backlog: Backlog) -> bool:
    """Put the messages of rsyslog into the backlog until they end, and answer each.

    All that has come since the last answer is one message, for it may have line ends inside.
    Returns whether the input ended well, as stdin_queuer does.
    """
    complete = True
    try:
        omprog.write("OK\n")
        while omprog.is_heard:
            message = await stdin.read_message(omprog.answered_at_once)
            if not message or not omprog.is_heard:
                break
            await omprog.answer(message)
    except asyncio.CancelledError:
        if omprog.is_heard:
            raise
    except OSError as error:
        say(f"cannot read standard input: {error.strerror}")
        complete = False
    finally:
        stdin.close()
    await backlog.end()
    return complete


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

    def __init__(self, high_water: int, low_water: int) -> None:
        # Those that stand, by descriptor. Of its handshake a libzmq older than 4 does not tell; but
        # who has not made one in time is cut off, so that who is still there then is a collector.
        self.connections: dict[int, tuple[str, asyncio.TimerHandle]] = {}
        self.met_collector = asyncio.Event()  # set for good by the first
        self._watermarks = {"high": high_water, "low": low_water}
        self._loop = asyncio.get_running_loop()
        self._connected: dict[str, bool] = {}  # endpoints, and whether by IPv6
        self._drained = asyncio.Event()
        self._closed = asyncio.Event()

    async def open(self, sndhwm: int, bind: list[str], connect: list[str]) -> None:
        """Bind and connect. Raises OSError, whose `filename` is the endpoint."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        with contextlib.suppress(OSError):  # who may set his policy at all may choose this one
            os.sched_setscheduler(0, os.sched_getscheduler(0), os.sched_getparam(0))
            # libzmq's thread then does not interrupt ours at every message (sched(7)).
            context.set(zmq.THREAD_SCHED_POLICY, os.SCHED_BATCH)
        push: zmq.Socket[bytes] = context.socket(self.KIND)
        push.setsockopt(zmq.SNDHWM, sndhwm)
        push.setsockopt(zmq.SNDTIMEO, 0)  # where there is no room, zmq.Again says so at once
        push.setsockopt(zmq.LINGER, self.LINGER_MS)
        push.setsockopt(zmq.IPV6, 1)  # of what is bound, at IPv4 addresses too
        push.setsockopt(zmq.TCP_KEEPALIVE, 1)
        push.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_AFTER_S)
        push.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        push.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        # For one collector, libzmq keeps what it has while that is away. Among several, a dead one
        # would be given its share.
        self._immediate = len(bind) + len(connect) > 1 or self.KIND != zmq.PUSH
        push.setsockopt(zmq.IMMEDIATE, int(self._immediate))
        self._push = push
        self._send = super(zmq.Socket, push).send  # of the backend: no checks, half the time
        self.transport, _ = await aiozmq.create_zmq_connection(
            lambda: self, self.KIND, zmq_sock=push
        )
        self.transport.set_write_buffer_limits(**self._watermarks)
        up, down = zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED, zmq.EVENT_DISCONNECTED
        await self.transport.enable_monitor(up | down | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        for endpoint in bind:
            try:
                refuse_to_displace(endpoint)
                bound = await self.transport.bind(endpoint)
            except OSError as error:
                why = zmq.strerror(error.errno or errno.EINVAL)
                raise OSError(error.errno, why, endpoint) from None
            if endpoint.endswith(":*"):
                say(f"bound to {bound}")
        for endpoint in connect:
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
            self._push.connect(endpoint)
            self._connected[endpoint] = ipv6

    def send(self, messages: Iterator[bytes]) -> bool:
        """Hand `messages` to libzmq; False as soon as it refuses one, which is the last taken."""
        try:
            collections.deque(map(self._send, messages), maxlen=0)
        except zmq.Again:
            return False
        return True

    def send_now(self, message: bytes) -> bool:
        """Hand `message` to libzmq, if it takes it now."""
        return self.met_collector.is_set() and self.send(iter((message,)))

    async def send_later(self, refused: bytes) -> None:
        """Leave a message that libzmq has refused to the transport; return when it is sent."""
        self.transport.write([refused or CountedEmpty()])
        if self.transport.get_write_buffer_size():
            self._drained.clear()
            self.transport.set_write_buffer_limits(high=0, low=0)  # tell us when it is empty
            await self._drained.wait()
            self.transport.set_write_buffer_limits(**self._watermarks)

    async def close(self) -> None:
        """Return when libzmq has delivered everything; only the end of its context tells that."""
        self.transport.close()
        await self._closed.wait()
        terminated = asyncio.Event()

        def terminate() -> None:
            zmq.Context.instance().term()
            self._loop.call_soon_threadsafe(terminated.set)

        threading.Thread(target=terminate, daemon=True).start()
        await terminated.wait()

    # what the transport calls

    def resume_writing(self) -> None:
        self._drained.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._closed.set()

    def event_received(self, event: Any) -> None:
        if event.event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.met_collector.set()
            for _, old_enough in self.connections.values():
                old_enough.cancel()
        elif event.event == zmq.EVENT_DISCONNECTED:
            _, old_enough = self.connections.pop(event.value)
            old_enough.cancel()
            # libzmq gives up for good on a peer that was not what it should be, without a word.
            # To connect anew costs nothing where libzmq holds nothing for who is not there.
            if self._immediate or not self.met_collector.is_set():
                wait_s = RECONNECT_MAX_MS / 1000
                self._loop.call_later(wait_s, self._connect_again, event.endpoint)
        else:
            old_enough = self._loop.call_later(HANDSHAKE_S, self.met_collector.set)
            self.connections[event.value] = (event.endpoint, old_enough)

    def _connect_again(self, endpoint: str) -> None:
        standing = [connected for connected, _ in self.connections.values()]
        if endpoint in self._connected and endpoint not in standing and not self._push.closed:
            with contextlib.suppress(zmq.ZMQError):
                self._push.disconnect(endpoint)
            self._connect_to(endpoint, self._connected[endpoint])


def refuse_to_displace(endpoint: str) -> None:
    """Raise OSError where an ipc endpoint is in use, or no socket: libzmq would remove it."""
    path = endpoint[len("ipc://") :]
    if endpoint.startswith("ipc://") and os.path.exists(path):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "it is there, and not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                raise OSError(errno.EADDRINUSE, "")


async def zmq_pusher(backlog: Backlog, link: Link) -> None:
    """Send the backlog, oldest chunk first, until its end."""
    while chunk := await backlog.get():
        await link.met_collector.wait()  # a peer that is none would take libzmq's queue with it
        messages = chunk.messages()
        before, events = backlog.sent, len(messages) if chunk.batch == 1 else chunk.count()
        left = iter(messages)
        while not link.send(left):
            refused = len(messages) - operator.length_hint(left) - 1
            backlog.sent = before + refused * chunk.batch
            await link.send_later(messages[refused])
        backlog.sent = before + events
        backlog.done(chunk, len(messages))


# ---- acknowledged delivery --------------------------------------------------------------------

# The frames are described in README.md, "The protocol of --ack".
ACK_VERSION = 1
ACK_LINES, ACK_ONE, ACK_QUERY, ACK_SAFE = range(1, 5)  # kinds of messages
ACK_HEADER = struct.Struct(">BB16sQQ")  # version, kind, shipper, number, first that is held
ACK_ANSWER = struct.Struct(">BB16sQ")  # version, kind, shipper, number


class Window:
    """The chunks that are not known to be safe, in order, and what a connection has had. Pure."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self._count = 0  # chunks
        self._chunks: dict[bytes, collections.deque[Chunk | Finished]] = {}  # by shipper
        self._unsent: collections.deque[tuple[bytes, Chunk | Finished]] = collections.deque()

    def add(self, shipper: bytes, chunk: Chunk | Finished) -> None:
        """`chunk` is the next one of `shipper`."""
        self._chunks.setdefault(shipper, collections.deque()).append(chunk)
        self._unsent.append((shipper, chunk))
        self.size += chunk.size
        self._count += 1

    def is_full(self) -> bool:
        """Whether no more should be added before something is safe."""
        return self.size >= WINDOW_SIZE or self._count >= WINDOW_CHUNKS

    def safe(self, shipper: bytes, number: int) -> list[Chunk | Finished]:
        """All of `shipper` up to `number` is safe: forget it; returns what was forgotten."""
        held = self._chunks.get(shipper, collections.deque())
        chunks = []
        while held and held[0].number <= number:
            chunks.append(held.popleft())
        if not held:
            self._chunks.pop(shipper, None)
        self.size -= sum(chunk.size for chunk in chunks)
        self._count -= len(chunks)
        return chunks

    def again(self) -> None:
        """The connection is new: it has had nothing."""
        self._unsent.clear()
        for shipper, held in self._chunks.items():
            self._unsent.extend((shipper, chunk) for chunk in held)

    def message(self) -> list[bytes] | None:
        """The frames of the next chunk that the connection has not had; None if it had all."""
        while self._unsent:
            shipper, chunk = self._unsent.popleft()
            held = self._chunks.get(shipper)
            if held and held[0].number <= chunk.number:  # it has not become safe meanwhile
                kind = ACK_LINES if chunk.count() > chunk.batch else ACK_ONE
                place = chunk.number, held[0].number
                return [ACK_HEADER.pack(ACK_VERSION, kind, shipper, *place), chunk.text()]
        return None

    def questions(self) -> list[bytes]:
        """For each shipper, the frame that asks what is safe."""
        return [ACK_HEADER.pack(ACK_VERSION, ACK_QUERY, shipper, 0, 0) for shipper in self._chunks]


def read_answer(frames: list[bytes]) -> tuple[bytes, int]:
    """Whose chunks are safe, and up to which number. Raises ValueError where that is not said."""
    try:
        (answer,) = frames
        version, kind, shipper, number = ACK_ANSWER.unpack(answer)
    except (ValueError, struct.error) as error:
        raise ValueError(str(error)) from None
    if (version, kind) != (ACK_VERSION, ACK_SAFE):
        raise ValueError(f"version {version}, kind {kind}")
    return shipper, number


class AckLink(Link):
    """A DEALER socket that is connected to one collector at a time.

    TCP loses nothing on a connection that stands, so what was sent is sent again on a new one only;
    and not before the collector has told what it has. One that is stuck would otherwise be given
    all of it at each attempt, and have to keep it.
    A collector that does not answer is asked; when it is silent then, too, the next one is tried.
    """

    KIND = zmq.DEALER

    LINGER_MS = 0  # what is safe needs no delivery

    def __init__(self, high_water: int, low_water: int, endpoints: list[str]) -> None:
        super().__init__(high_water, low_water)
        self._window = Window()
        self._endpoints = itertools.cycle(endpoints)
        self._endpoint = ""  # of the collector in use
        self._looked_up: set[str] = set()  # endpoints whose names are being resolved
        self._welcome = False  # the connection stands, and chunks may be sent
        self._asked = False
        self._told = False  # that somebody talks nonsense
        self._patience_s = ANSWER_S  # grows while nobody answers
        self._late: asyncio.TimerHandle | None = None
        self._progress = asyncio.Event()

    async def run(self, backlog: Backlog) -> None:
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
        self._stdin.finish()
        # What was read may have to wait, for rsyslog's answer or for a disk: not for ever.
        grace_ends_at = self._signalled_at + GRACE_AFTER_SIGNAL_S
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


def tell(text: str, descriptor: int = 1) -> bool:
    """Write `text` and LF; whether that worked, or nobody wants to know (EPIPE)."""
    try:
        os.write(descriptor, f"{text}\n".encode())
    except BrokenPipeError:
        pass
    except OSError as error:
        say(f"cannot write to standard output: {error.strerror}")
        return False
    return True


def repeat(show: Callable[[], None], interval_s: float) -> None:
    """Call `show` each `interval_s` seconds."""

    def again() -> None:
        show()
        repeat(show, interval_s)

    asyncio.get_running_loop().call_later(interval_s, again)


class Report:
    """Tells how far things are: counters, a live line, what is waited for, and how it ended."""

    def __init__(
        self,
        options: argparse.Namespace,
        form: EventFormat,
        stdin: Stdin,
        backlog: Backlog,
        link: Link,
    ) -> None:
        self._options = options
        self._form = form
        self._stdin = stdin
        self._backlog = backlog
        self._link = link
        self._bar: Any = None
        self._place = f" in {options.spool}" if options.spool else ""

    def counters(self) -> None:
        """Say the counters on stderr."""
        backlog, waiting = self._backlog, self._backlog.waiting()
        say(
            f"{time.monotonic() - self._stdin.started_at:.1f}s: {backlog.sent + waiting} messages "
            f"read, {backlog.sent} handed over, {waiting} waiting "
            f"({backlog.size} bytes{self._place}), {len(self._link.connections)} connected"
        )

    def live_line(self) -> None:
        """Bring the live line on stderr up to date."""
        import tqdm

        backlog, stdin = self._backlog, self._stdin
        if self._bar is None:
            total = stdin.file_size
            self._bar = tqdm.tqdm(total=total, unit="B", unit_scale=True, dynamic_ncols=True)
        rate = backlog.sent / max(time.monotonic() - stdin.started_at, 1e-9)
        waiting = backlog.waiting()
        self._bar.set_postfix_str(f"{backlog.sent} lines, {rate:.0f}/s, {waiting} waiting", False)
        done = stdin.taken if self._options.spool else stdin.taken - backlog.size
        self._bar.update(done - self._bar.n)

    def end_live_line(self) -> None:
        """Show the last state, and leave it there."""
        if self._bar is not None:
            self.live_line()
            self._bar.close()

    def undelivered(self) -> int:
        """Messages that may not have arrived, at most: libzmq does not tell what it holds."""
        backlog, options = self._backlog, self._options
        held = 0 if options.ack else backlog.sent
        if held and options.sndhwm:
            queued = options.sndhwm * options.batch
            being_sent = OUT_BATCH_SIZE // self._form.least_size + options.batch
            held = min(held, (queued + being_sent) * max(len(self._link.connections), 1))
        return backlog.waiting() - backlog.unanswered + held

    def waiting(self) -> None:
        """Say that the input has ended, and what keeps us."""
        where = " ".join(self._options.connect + self._options.bind)
        if self._link.met_collector.is_set() and not self._options.ack:
            what = f"up to {self.undelivered()} messages are still on their way to"
        else:
            what = f"{self.undelivered()} messages wait{self._place} for a collector at"
        say(f"the input has ended; {what} {where}")

    def given_up(self) -> bool:
        """Say how many messages are lost, if any; whether there are."""
        lost = self.undelivered()
        if isinstance(self._backlog, Spool):
            return self._left_in_spool(self._backlog)
        if not lost:
            return False
        if self._options.ack:
            say(f"gave up {lost} messages: no collector has acknowledged them")
        elif self._link.met_collector.is_set():
            waited = self._backlog.waiting() - self._backlog.unanswered
            say(
                f"gave up at most {lost} messages: {waited} that waited here, "
                "and what libzmq held, which it does not tell"
            )
        else:
            say(f"gave up {lost} messages: no collector ever connected")
        return True

    def _left_in_spool(self, spool: Spool) -> bool:
        homeless = spool.homeless()
        if spool.unsaved:
            say(f"gave up {spool.unsaved} messages: they could not be written to the spool")
        if homeless:
            say(f"gave up at most {homeless} messages: the file that had them is damaged")
        waiting, uncertain = spool.waiting() - spool.unsaved - homeless, spool.uncertain()
        if waiting or uncertain:
            say(
                f"{waiting} messages wait in {self._options.spool}, and {uncertain} that were "
                "handed over and may have arrived: the next start sends them"
            )
        return spool.unsaved + homeless > 0

    def summary(self) -> None:
        """Tell on stdout how many messages went out, and in which time."""
        backlog = self._backlog
        ms = ((backlog.last_sent_at or time.monotonic()) - self._stdin.started_at) * 1000
        text = f"Processed {backlog.sent} messages in {ms:.4f}ms. Tagged with @pid:{os.getpid()}"
        tell(text, 2 if self._options.omprog else 1)


async def ship(options: argparse.Namespace) -> int:
    """Push all of stdin; returns the exit status."""
    ack = AckLink(options.high_water, options.low_water, options.connect) if options.ack else None
    link = ack or Link(options.high_water, options.low_water)
    try:
        await link.open(options.sndhwm, options.bind, [] if ack else options.connect)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    form = EventFormat(options, os.getpid())
    backlog = open_backlog(options, form, link)
    try:
        # rsyslog asks and waits: its message is all that there will be.
        stdin = Stdin(lambda: None) if options.omprog else Stdin(backlog.announce, Pace())
    except OSError as error:
        fail(f"cannot read standard input: {error}")
    if stdin.always_ready and not backlog.limit and not options.spool:
        backlog.limit = FILE_AHEAD
    report = Report(options, form, stdin, backlog, link)
    grace_s = LAST_HANDOVER_S if options.spool else GRACE_AFTER_SIGNAL_S
    ending = Ending(options.linger, grace_s, stdin, backlog)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, report.counters)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if options.stats:
        repeat(report.counters, options.stats)
    if options.progress and os.isatty(2):
        report.live_line()
        repeat(report.live_line, PROGRESS_S)

    async def deliver() -> None:
        await asyncio.gather(reading, ack.run(backlog) if ack else zmq_pusher(backlog, link))
        await link.close()

    if options.omprog or options.spool:
        stdin.widen()
    if options.omprog:
        if not options.spool and not options.ack:  # else more has to happen before an OK
            backlog.send_now = link.send_now
        queuer = omprog_queuer(stdin, Omprog(options, backlog), backlog)
    else:
        queuer = stdin_queuer(stdin, LineSplitter(options.max_line), backlog)

    def input_ended(_: asyncio.Task[bool]) -> None:
        ending.input_ended()
        loop.call_later(NOTICE_AFTER_S, report.waiting)
        if backlog.unanswered and not link.met_collector.is_set():
            ending.give_up()  # rsyslog has gone, and will give what it has to the next program

    reading = loop.create_task(queuer)
    reading.add_done_callback(input_ended)
    delivering = loop.create_task(deliver())
    await asyncio.wait({delivering, ending.gave_up}, return_when=asyncio.FIRST_COMPLETED)
    delivered = delivering.done()
    report.end_live_line()
    if delivered:
        delivering.result()  # raises what went wrong, which would be a bug
    reading.cancel()  # has no effect but after a second signal, and then it puts stdin's flags back
    await asyncio.wait({reading})
    backlog.close(delivered)
    lost = not delivered and report.given_up()
    if not options.quiet:
        report.summary()
    all_read = reading.cancelled() or reading.result()
    return 1 if lost or not all_read else 0


def open_backlog(options: argparse.Namespace, form: EventFormat, link: Link) -> Backlog:
    """What keeps the lines until they are sent."""
    if not options.spool:
        return Backlog(options.queue_limit, form)

    def held() -> int:
        if options.ack:  # of what was acknowledged, nothing
            return 0
        a_connection: int = options.sndhwm + OUT_BATCH_SIZE // form.least_size + 1
        return a_connection * max(len(link.connections), 1)

    try:
        return Spool(options.spool, options.spool_limit, form, held)
    except (OSError, sqlite3.Error) as error:
        fail(f"--spool {options.spool}: {reason(error)}")


# ---- command line -----------------------------------------------------------------------------

SIZE_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
RESERVED_FIELDS = ("message", "type", "@pid")
# zmq_tcp(7). Checked here, for libzmq takes a port of 99999 and any name, and then waits.
TCP = re.compile(r"tcp://(\[(?P<ipv6>[^]]+)\]|(?P<name>[^][:/\s]+)):(?P<port>\d{1,5}|\*)", re.ASCII)
LONGEST_IPC_PATH = 107  # bytes (unix(7))


def read_size(word: str) -> int:
    """A size in bytes, such as `64k`. Raises ValueError."""
    digits = word.lower().rstrip("kmg")
    unit = word.lower()[len(digits) :]
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
    if not (name and equals) or name in RESERVED_FIELDS:
        raise ValueError(word)
    return name, value


def read_endpoint(word: str, to_bind: bool = False) -> str:
    """An endpoint that libzmq can use; to bind, `*` is any host or port. Raises ValueError."""
    if word.startswith("ipc://") and 0 < len(os.fsencode(word[6:])) <= LONGEST_IPC_PATH:
        return word
    match = TCP.fullmatch(word)
    if not match or not (to_bind if match["port"] == "*" else 0 < int(match["port"]) < 65536):
        raise ValueError(word)
    if match["ipv6"]:
        ipaddress.IPv6Address(match["ipv6"].partition("%")[0])
    if match["name"] == "*" and not to_bind:
        raise ValueError(word)
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
            description=description,
            epilog=f"Each option has an environment variable, such as {prefix}STATS.",
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,  # parse() wants to know what was not said
        )
        self._prefix = prefix
        self._actions_of: dict[str, argparse.Action] = {}  # by variable
        self._default_of: dict[str, Any] = {}
        self._place = ""

    def option(self, *names: str, default: Any, **settings: Any) -> None:
        """Add an option or a positional argument; a list as `default` makes it repeatable."""
        if isinstance(default, list):
            settings["action"] = "append"
        action = self.add_argument(*names, **settings)
        self._actions_of[self._prefix + action.dest.upper()] = action
        self._default_of[action.dest] = default

    def error(self, message: str) -> NoReturn:
        """End with one line and status 2."""
        fail(f"{self._place}{message} (--help tells more)")

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """What the command line says, else the environment, else the defaults."""
        said = dict(self._default_of)
        for variable, action in self._actions_of.items():
            self._place = f"environment variable {variable}: "
            said.update(vars(self.parse_args(self._words(action, os.environ.get(variable, "")))))
        self._place = ""
        said.update(vars(self.parse_args(self._without_empty(arguments))))
        return argparse.Namespace(**said)

    def _without_empty(self, words: list[str]) -> list[str]:
        """`words` without the empty ones that would be positional arguments.

        rsyslog 8.2608 passes one for a blank at the end of `binary="…"`. An option's empty value
        stays what it is.
        """
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
        try:
            return [f"{option}={word}" for word in shlex.split(value)]
        except ValueError as error:
            self.error(f"{value!r}: {error}")


def build_parser(description: str) -> Parser:
    """All options, for this program and for those that share them."""
    size = checked(read_size, "a size such as 65536, 64k, 1M or 2G")
    line_size = checked(read_line_size, "0 or a size of 4 or more")
    count_or_0 = checked(int, "a whole number from 0 up", 0, LARGEST_INT)
    linger = checked(
        lambda word: math.inf if word == "-1" else float(word), "a number of seconds, or -1", 0
    )
    field = checked(read_field, f"NAME=VALUE with a NAME other than {', '.join(RESERVED_FIELDS)}")
    switch: dict[str, Any] = {"action": "store_true", "default": False}

    parser = Parser(description, "ZMQPUSH_")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    option = parser.option
    # fmt: off
    option("logtype", metavar="LOGTYPE", nargs="?", default="syslog",
           help="type of every event (syslog)")
    option("-c", "--connect", metavar="ENDPOINT", type=CONNECT, default=[],
           help=f"connect to a collector; repeatable, they share the load ({DEFAULT_ENDPOINT})")
    option("-b", "--bind", metavar="ENDPOINT", type=BIND, default=[],
           help="let collectors connect; repeatable")
    option("-f", "--field", metavar="NAME=VALUE", type=field, default=[],
           help="another string field in every event; repeatable")
    option("--timestamp", **switch, help="@timestamp: when the line was read")
    option("--format", choices=("logstash", "json", "raw"), default="logstash",
           help="json: an object is sent as it is, plus what it lacks; raw: the line (logstash)")
    option("--batch", metavar="N", type=COUNT, default=1,
           help="up to N events in a message, as a JSON array (1: one event, no array)")
    option("--max-line", metavar="SIZE", type=line_size, default=SIZE_UNITS["m"],
           help="send longer lines in pieces of this size; 0: no limit (1M)")
    option("--sndhwm", metavar="N", type=count_or_0, default=1000,
           help="ZMQ_SNDHWM: messages that libzmq holds a connection; 0: no limit (1000)")
    option("--high-water", metavar="SIZE", type=size, default=64 * SIZE_UNITS["k"],
           help="the most that the transport's write buffer holds (64k)")
    option("--low-water", metavar="SIZE", type=size, default=16 * SIZE_UNITS["k"],
           help="above this nothing more is sent until that buffer has drained (16k)")
    option("--queue-limit", metavar="SIZE", type=size, default=0,
           help="stop reading while this much input waits; 0: no limit (0)")
    option("--linger", metavar="SECONDS", type=linger, default=math.inf,
           help="how long to deliver after the end of input; -1: until done (-1)")
    option("--spool", metavar="DIR", default="",
           help="journal every line on disk, in files in DIR, before it is sent")
    option("--spool-limit", metavar="SIZE", type=size, default=0,
           help="stop reading while this much waits in the spool; 0: no limit (0)")
    option("--omprog", **switch, help="answer rsyslog's confirmMessages on stdout")
    option("--omprog-transactions", **switch, help="answer rsyslog's useTransactions, too")
    option("--omprog-begin", metavar="TEXT", default="BEGIN TRANSACTION",
           help="rsyslog's beginTransactionMark (BEGIN TRANSACTION)")
    option("--omprog-commit", metavar="TEXT", default="COMMIT TRANSACTION",
           help="rsyslog's commitTransactionMark (COMMIT TRANSACTION)")
    option("--ack", **switch, help="acknowledged delivery, to zmqpull.py --ack; --connect only")
    option("--stats", metavar="SECONDS", type=INTERVAL, default=0.0,
           help="counters on stderr that often; SIGUSR1 asks for them at once")
    option("--progress", **switch, help="a live line on stderr, if that is a terminal (needs tqdm)")
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
    if options.progress:
        try:
            import tqdm  # noqa: F401
        except ImportError as missing:
            parser.error(f"--progress: {missing}; install tqdm")
    refuse_misfits(parser, options)
    if options.format == "raw" and (names or options.batch > 1):
        parser.error("--format raw has no place for --field, --timestamp or --batch")
    return options


def refuse_misfits(parser: Parser, options: argparse.Namespace) -> None:
    """End where --spool or --omprog is said together with what makes no sense beside it."""
    if options.spool_limit and not options.spool:
        parser.error("--spool-limit is for --spool")
    if options.spool and options.queue_limit:
        parser.error("--queue-limit is for lines in memory; with --spool it is --spool-limit")
    if options.spool and not options.sndhwm:
        parser.error("--sndhwm 0 lets libzmq hold everything: nothing would ever leave --spool")
    if options.ack and options.bind:
        parser.error("--ack connects: it cannot be used with --bind")
    if options.omprog_transactions and not options.omprog:
        parser.error("--omprog-transactions is for --omprog")
    marks = [options.omprog_begin, options.omprog_commit]
    if not options.omprog_transactions and marks != ["BEGIN TRANSACTION", "COMMIT TRANSACTION"]:
        parser.error("--omprog-begin and --omprog-commit are for --omprog-transactions")
    if marks[0] == marks[1] or not all(marks):
        parser.error("--omprog-begin and --omprog-commit must be two texts")


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
    status = asyncio.run(ship(options))
    os._exit(status)  # what libzmq may still hold is given up: do not wait for its threads


if __name__ == "__main__":
    main()

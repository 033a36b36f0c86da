#!/usr/bin/env python3
"""Collect events from ZeroMQ PUSH sockets, and write each as a line of JSON to one or more sinks.

The pattern is the sink of the ZeroMQ Guide's pipeline:

    PUSH --> PULL --> take() --> events_of() --> sinks: standard output, a file, Redis, SQLite
             libzmq   what is    one event
             queues   there      a line

The next messages are taken when all sinks have the last ones; with --ack they are taken meanwhile,
to be given to the sinks then. A sink that fails is tried again with what it lacks; nothing more is
taken until it succeeds, libzmq's queues fill, and the senders are held back.
"""

from __future__ import annotations

import signal
import sys

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until there is somebody to act on them

sys.dont_write_bytecode = True  # the programs may lie in a directory such as /usr/local/bin
import zmqpush  # first: it says what is missing

import argparse  # isort: skip
import asyncio
import contextlib
import dataclasses
import errno
import functools
import itertools
import json
import math
import os
import random
import re
import select
import sqlite3
import stat
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar, Union

import zmq

DEFAULT_ENDPOINT = zmqpush.DEFAULT_ENDPOINT
MOST_FRAMES = 2000  # that are taken at a time
FIRST_FRAMES = 10  # that are taken before the first look at their size
ENOUGH_BYTES = 1024 * 1024  # after which no more are taken
SLICE = 1000  # events in one command to Redis
PIPE_BUF = 4096  # bytes that a pipe takes whole if it takes any (pipe(7))
RETRY_S = 1.0
OPENING_S = 5.0  # how long a database may be in use by another when we begin
BUSY_MS = 100  # and later, without a word about it
MOST_OFFERS = 100  # that are taken at a time
MOST_MESSAGES = 1_000_000  # in a chunk; zmqpush.py has a third of that, Redis 6 takes no more
MOST_RECORDS = 10_000  # of shippers that are kept in memory, for a file
RECORD_LASTS_S = 30 * 86400  # a shipper that was not here for so long is forgotten
HIGHEST_NUMBER = 2**53 - 1  # of a chunk; from there on Redis' Lua cannot count
FULL_LIST_S = 0.2  # how often to look whether a list has room again
GRACE_AFTER_SIGNAL_S = 2.0
LAST_WRITE_S = 0.5  # of these are for what is in hand: what comes may have no end
LAST_ANSWERS_MS = 500


# ---- events -----------------------------------------------------------------------------------

PARSE_FAILURE = "_jsonparsefailure"  # the tag of Logstash's json codec
JSON_BLANKS = " \t\n\r"  # RFC 8259, section 2
STRICT = json.JSONDecoder(
    parse_constant=zmqpush.refuse_constant, parse_int=str, parse_float=str
).raw_decode
NOT_JSON = (ValueError, RecursionError)  # what it raises
MARK = str(random.SystemRandom().randrange(10**17, 10**18))  # a number that no sender knows
BETWEEN = f",{MARK},".encode()
NO_CONTROLS = bytes(range(0x20, 0x100))
HEAD = zmqpush.EventFormat.HEAD
FIRST_OF_TAIL = b'","type":'  # behind a message, as zmqpush.py writes it
SIMPLE_ESCAPES = (b"\\\\", b'\\"', b"\\t")  # the first one first: what follows it is no escape


def events_of(frames: list[bytes]) -> list[bytes]:
    """The events in `frames`, each a JSON object on one line, in valid UTF-8.

    A frame is an object or an array of objects, as Logstash's json codec takes them; each object
    keeps its own text. Anything else becomes an event that has it as `message`, and a tag.
    """
    # Who sends arrays sends nothing else: then there is no need to look whether all are objects.
    if frames and frames[0][:1] != b"[" and are_objects(frames):
        return frames
    return list(itertools.chain.from_iterable(map(events_in, frames)))


def events_in_lines(text: bytes) -> list[bytes]:
    """As events_of(), of frames that come with a newline between them."""
    if text[:1] == b"[":
        return list(itertools.chain.from_iterable(map(events_in, long_lines(text))))
    frames = text.split(b"\n")
    return frames if simple_messages(text, b"\n") else events_of(frames)


def long_lines(text: bytes) -> Iterator[bytes]:
    """What split() gives; lines of thousands of bytes in an eighth of the time."""
    at = 0
    while (end := text.find(b"\n", at)) >= 0:
        yield text[at:end]
        at = end + 1
    yield text[at:]


def are_objects(texts: list[bytes]) -> bool:
    """Whether each of `texts` is a JSON object on one line."""
    return len(simple_messages(b"\n".join(texts), b"\n")) == len(texts) or are_objects_together(
        BETWEEN.join(texts), len(texts)
    )


def simple_messages(text: bytes, between: bytes) -> list[bytes]:
    """The messages of the objects in `text`, with `between` between them; [] if they are not alike.

    They are if all begin with a simple message, and are the same behind it: that is what comes from
    one shipper. A handful of operations on all the bytes tell it, in a third of the time that it
    takes to read JSON.
    """
    tail = tail_of(text)
    if not (
        text.startswith(HEAD)
        and len(text) >= len(HEAD + tail)
        and are_objects_together(HEAD + tail, 1)
    ):
        return []
    messages = text[len(HEAD) : -len(tail)].split(tail + between + HEAD)
    joined = b"\n".join(messages)
    if joined.translate(None, NO_CONTROLS) != b"\n" * (len(messages) - 1):
        return []
    for escape in SIMPLE_ESCAPES if b"\\" in joined else ():
        joined = joined.replace(escape, b"_")
    # What is left of these would end the string, or be an escape that is not simple.
    if b'"' in joined or b"\\" in joined or not is_utf8(joined):
        return []
    return messages


def tail_of(text: bytes) -> bytes:
    """What is behind the last message, as zmqpush.py writes it; anything where that is not so."""
    return text[text.rfind(FIRST_OF_TAIL) :]


def is_utf8(text: bytes) -> bool:
    """Whether it can be decoded."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def are_objects_together(text: bytes, count: int) -> bool:
    """Whether `text` is `count` JSON objects on one line, with BETWEEN between them.

    To read many at once takes a fifth of the time. What is valid only together, such as the halves
    of an object in two frames, is found out, for then a mark is not where it should be.
    """
    try:
        array = f"[{text.decode()}]"
        values, end = STRICT(array, 0)
    except NOT_JSON:
        return False
    return (
        end == len(array)
        and "\n" not in array
        and "\r" not in array
        and len(values) == 2 * count - 1
        and values[1::2] == [MARK] * (count - 1)
        and set(map(type, values[::2])) == {dict}
    )


def events_in_simple(array: bytes) -> list[bytes]:
    """The events in an array of those that are alike (simple_messages()); [] if it is not such."""
    if array[:1] != b"[" or array[-1:] != b"]":
        return []
    tail = tail_of(array[1:-1])
    messages = simple_messages(array[1:-1], b",")
    return (HEAD + (tail + b"\n" + HEAD).join(messages) + tail).split(b"\n") if messages else []


def parts_of(frame: bytes) -> list[bytes]:
    """The objects, unless are_objects() says no, of an array that has no blanks between them.

    That is how zmqpush.py makes it. Where `frame` is no array, it is the only part.
    """
    if frame[:1] != b"[" or frame[-1:] != b"]" or b"\n" in frame:
        return [frame]
    return frame[1:-1].replace(b"},{", b"}\n{").split(b"\n")


def events_in(frame: bytes) -> list[bytes]:
    """The events of one frame."""
    events = events_in_simple(frame)
    if events:
        return events
    parts = parts_of(frame)
    if are_objects(parts):
        return parts
    try:
        # Outside of strings a line end is a blank, and inside there is none.
        return [re.sub("[\n\r]", " ", text).encode() for text in objects_in(frame.decode())]
    except NOT_JSON:
        return [as_message(frame)]


def as_message(frame: bytes) -> bytes:
    """An event that has `frame` as its message, and says that it was none."""
    event = {"message": frame.decode(errors="backslashreplace"), "tags": [PARSE_FAILURE]}
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def objects_in(text: str) -> list[str]:
    """The text of the object, or of each object in the array, that `text` is. Raises NOT_JSON."""
    text = text.strip(JSON_BLANKS)
    if text[:1] != "[":
        return [object_at(text, 0, len(text))]
    objects: list[str] = []
    at = after_blanks(text, 1)
    while text[at : at + 1] != "]" or objects:  # a comma before the end is an error
        objects.append(object_at(text, at))
        at = after_blanks(text, at + len(objects[-1]))
        if text[at : at + 1] != ",":
            break
        at = after_blanks(text, at + 1)
    if text[at:] != "]":
        raise ValueError
    return objects


def object_at(text: str, start: int, end: int | None = None) -> str:
    """The text of the JSON object at `start`, which ends at `end` if that is said."""
    value, found = STRICT(text, start)
    if type(value) is not dict or end not in (None, found):
        raise ValueError
    return text[start:found]


def after_blanks(text: str, at: int) -> int:
    """The place of the next character from `at` on that is no blank of JSON."""
    while text[at : at + 1] and text[at] in JSON_BLANKS:
        at += 1
    return at


# ---- acknowledged delivery --------------------------------------------------------------------


@dataclasses.dataclass
class Offer:
    """A chunk that a shipper offers (README.md, "The protocol of --ack")."""

    peer: bytes  # whom to answer: an identity of the ROUTER socket
    shipper: bytes
    number: int  # 0: no chunk, but a question
    first: int  # the first number that the shipper still has
    events: list[bytes]
    is_new: bool = False  # a sink has taken it

    @classmethod
    def read(cls, frames: list[bytes]) -> Offer:
        """The one in a message of the ROUTER socket. Raises ValueError where that is none."""
        try:
            peer, header, *texts = frames
            version, kind, shipper, number, first = zmqpush.ACK_HEADER.unpack(header)
        except (ValueError, struct.error) as error:
            raise ValueError(str(error)) from None
        if version != zmqpush.ACK_VERSION:
            raise ValueError(f"version {version}")
        if (kind, texts) == (zmqpush.ACK_QUERY, []):
            return cls(peer, shipper, 0, 0, [])
        if kind not in (zmqpush.ACK_LINES, zmqpush.ACK_ONE) or len(texts) != 1:
            raise ValueError(f"kind {kind} with {len(texts)} frames")
        if not 0 < first <= number <= HIGHEST_NUMBER:
            raise ValueError(f"number {number}, first {first}")
        (text,) = texts
        as_lines = kind == zmqpush.ACK_LINES
        if as_lines and len(text) >= MOST_MESSAGES <= text.count(b"\n"):
            raise ValueError(f"more than {MOST_MESSAGES} messages in a chunk")
        events = events_in_lines(text) if as_lines else events_of([text])
        if len(events) > MOST_MESSAGES:  # an array of so many in one message
            events = [as_message(line) for line in (text.split(b"\n") if as_lines else [text])]
        return cls(peer, shipper, number, first, events)


def next_record(record: int | None, offer: Offer) -> int | None:
    """What a shipper's record is after `offer`; the offer is taken if that is its number.

    The record is the number of the last chunk that was taken, None where there is none. It goes
    up by one, or to where the shipper begins: what is before, somebody else has taken.
    """
    if not offer.number:
        return record
    if record is None or record < offer.first - 1:
        record = offer.first - 1
    return offer.number if offer.number == record + 1 else record


def sort_out(
    offers: list[Offer], record_of: Callable[[bytes], int | None]
) -> tuple[list[Offer], dict[bytes, int]]:
    """Those of `offers` that are to be taken, and what the shippers' records are then."""
    records: dict[bytes, int | None] = {}
    taken = []
    for offer in offers:
        if offer.shipper not in records:
            records[offer.shipper] = record_of(offer.shipper)
        before = records[offer.shipper]
        after = records[offer.shipper] = next_record(before, offer)
        if offer.number and after == offer.number and after != before:
            taken.append(offer)
    return taken, {shipper: record or 0 for shipper, record in records.items()}


# ---- sinks ------------------------------------------------------------------------------------


class Trouble(Exception):
    """A sink cannot take events now; the message says why."""


class Descriptor:
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


class RedisList:
    """Events at the end of a Redis list (RPUSH): Logstash's redis input takes them, and BLPOP."""

    # next_record() for one offer, and its events, in one step: KEYS are the list and the shipper's
    # record; ARGV number, first, seconds to live, events. Lua cannot unpack too many at once.
    KEEP = f"""
        local number, first = tonumber(ARGV[1]), tonumber(ARGV[2])
        local record = tonumber(redis.call('GET', KEYS[2]) or -1)
        if number == 0 then return {{math.max(record, 0), 0}} end
        if record < first - 1 then record = first - 1 end
        local is_new = 0
        if number == record + 1 then
            for start = 4, #ARGV, {SLICE} do
                local last = math.min(start + {SLICE} - 1, #ARGV)
                redis.call('RPUSH', KEYS[1], unpack(ARGV, start, last))
            end
            record, is_new = number, 1
        end
        redis.call('SET', KEYS[2], string.format('%.0f', record), 'EX', ARGV[3])
        return {{record, is_new}}
    """

    def __init__(self, url: str, key: str, limit: int) -> None:
        """While the list has `limit` elements (0: any number) it takes none. Raises ValueError."""
        import redis.asyncio

        self._error = redis.RedisError
        self._client = redis.asyncio.Redis.from_url(url)
        self._keep = self._client.register_script(self.KEEP)
        pool: Any = self._client.connection_pool
        try:
            pool.make_connection()  # to know now what is wrong, and not at the first event
        except (TypeError, redis.RedisError) as error:
            raise ValueError(error) from None
        self._key = key
        self._limit = limit
        self._pushed = 0  # of the events to write
        self.name = f"{re.sub('//.*@', '//', url)} {key}"

    async def write(self, events: list[bytes]) -> None:
        """Push `events`; after Trouble, those that were not answered for."""
        try:
            while self._pushed < len(events):
                await self._until_room()
                some = events[self._pushed : self._pushed + SLICE]
                await self._client.rpush(self._key, *some)
                self._pushed += len(some)
        except (self._error, OSError) as error:
            raise Trouble(str(error)) from None
        self._pushed = 0

    async def _until_room(self) -> None:
        while self._limit and await self._client.llen(self._key) >= self._limit:
            await asyncio.sleep(FULL_LIST_S)

    async def keep(self, offers: list[Offer]) -> dict[bytes, int]:
        """Push what is new in `offers`; returns the shippers' records, which are in Redis, too."""
        try:
            await self._until_room()
            async with self._client.pipeline(transaction=False) as pipeline:
                for offer in offers:
                    names = [self._key, f"zmqpull:{self._key}:{offer.shipper.hex()}"]
                    place = [offer.number, offer.first, RECORD_LASTS_S]
                    await self._keep(keys=names, args=[*place, *offer.events], client=pipeline)
                answers = await pipeline.execute()
        except (self._error, OSError) as error:
            raise Trouble(str(error)) from None
        records = {}
        for offer, (record, is_new) in zip(offers, answers):
            records[offer.shipper] = record
            offer.is_new = offer.is_new or bool(is_new)
        return records


class Sqlite:
    """Events in a table, to ask with SQL."""

    SCHEMA = """
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = FULL;
        CREATE TABLE IF NOT EXISTS event (
            id INTEGER PRIMARY KEY,
            received TEXT NOT NULL,  -- UTC, ISO 8601
            type TEXT,
            message TEXT,
            event TEXT NOT NULL  -- all of it, JSON
        );
        CREATE TABLE IF NOT EXISTS shipper (  -- with --ack
            id BLOB PRIMARY KEY,
            record INTEGER NOT NULL,  -- the number of the last chunk that was taken
            seen TEXT NOT NULL
        );
        CREATE INDEX IF NOT EXISTS shipper_seen ON shipper (seen);
        CREATE INDEX IF NOT EXISTS event_received ON event (received);
        CREATE INDEX IF NOT EXISTS event_type ON event (type, received);
    """

    def __init__(self, path: str) -> None:
        """Raises sqlite3.Error."""
        self.name = path
        # Another collector may be there, too: wait for it now; later, what fails is tried again.
        self._db = sqlite3.connect(path, isolation_level=None, timeout=OPENING_S)
        self._db.executescript(self.SCHEMA)
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")

    async def write(self, events: list[bytes]) -> None:
        """Insert `events`, all or none."""
        with self._transaction():
            self._insert(events)

    async def keep(self, offers: list[Offer]) -> dict[bytes, int]:
        """Insert what is new in `offers`; returns the shippers' records, which are there, too."""
        with self._transaction():
            taken, records = sort_out(offers, self._record_of)
            self._insert(list(itertools.chain.from_iterable(offer.events for offer in taken)))
            self._db.executemany(
                "INSERT INTO shipper VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "
                "SET record = excluded.record, seen = excluded.seen",
                [(shipper, record, now()) for shipper, record in records.items() if record],
            )
            oldest = zmqpush.iso8601((time.time_ns() // 10**9 - RECORD_LASTS_S) * 1000)
            self._db.execute("DELETE FROM shipper WHERE seen < ?", (oldest,))
        for offer in taken:
            offer.is_new = True
        return records

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._db:  # commits, or rolls back
                self._db.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            raise Trouble(str(error)) from None

    def _insert(self, events: list[bytes]) -> None:
        received = now()
        self._db.executemany(
            "INSERT INTO event (received, type, message, event) VALUES (?, ?, ?, ?)",
            [(received, *columns(event)) for event in events],
        )

    def _record_of(self, shipper: bytes) -> int | None:
        row = self._db.execute("SELECT record FROM shipper WHERE id = ?", (shipper,)).fetchone()
        return row[0] if row else None


def now() -> str:
    """The time, as Logstash writes it."""
    return zmqpush.iso8601(time.time_ns() // 1_000_000)


def columns(event: bytes) -> tuple[str | None, str | None, str]:
    """The type, the message and the whole of `event`."""
    text = event.decode()
    try:
        members, _ = STRICT(text, after_blanks(text, 0))
        return column("type", members, text), column("message", members, text), text
    except RecursionError:  # events_of() could just read it, with less on the stack
        return None, None, text


def column(name: str, members: dict[str, Any], text: str) -> str | None:
    """The member `name` as SQLite takes a text: half a surrogate pair becomes `\\uNNNN`.

    What is no string is the JSON that it is in `text`, which is that of the object.
    """
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        value = text_of(name, text)
    return value.encode(errors="backslashreplace").decode()


def text_of(name: str, text: str) -> str:
    """The text of the value of the (last) member `name` in that of an object."""
    found = ""
    at = after_blanks(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = STRICT(text, at)
        start = after_blanks(text, after_blanks(text, at) + 1)  # behind the colon
        _, at = STRICT(text, start)
        if key == name:
            found = text[start:at]
        at = after_blanks(text, at)
        at = after_blanks(text, at + (text[at] == ","))
    return found


Sink = Union[Descriptor, RedisList, Sqlite]


def open_sinks(options: argparse.Namespace) -> list[Sink]:
    """All that were asked for, or standard output. Ends where one cannot be."""
    sinks: list[Sink] = []
    try:
        sinks += map(File, options.output)
        if options.redis:
            sinks.append(RedisList(options.redis, options.key, options.redis_limit))
        sinks += map(Sqlite, options.sqlite)
    except OSError as error:
        zmqpush.fail(f"{error.filename}: {error.strerror}")
    except sqlite3.Error as error:
        zmqpush.fail(f"--sqlite {' '.join(options.sqlite)}: {error}")
    except ValueError as error:
        zmqpush.fail(f"--redis: {error}")
    return sinks or [Descriptor(1, "standard output")]


# ---- input ------------------------------------------------------------------------------------


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
                zmqpush.refuse_to_displace(endpoint)
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


class Router(Pull):
    """The ROUTER socket, which takes offers and answers them."""

    KIND = zmq.ROUTER

    def take_offers(self, most: int) -> list[Offer]:
        """The offers among up to `most` messages; what is none is said once, and ignored."""
        offers: list[Offer] = []
        size = 0
        with contextlib.suppress(zmq.Again):
            for _ in range(most):
                frames = self._pull.recv_multipart(zmq.DONTWAIT)
                size += sum(map(len, frames))
                try:
                    offers.append(Offer.read(frames))
                except ValueError as error:
                    self._say_once(f"a peer does not speak the protocol of --ack: {error}")
                if size >= ENOUGH_BYTES:
                    break
        return offers

    def answer(self, peer: bytes, shipper: bytes, record: int) -> None:
        """Tell `peer` that all of `shipper` up to `record` is safe, if it is still there."""
        header = zmqpush.ACK_ANSWER.pack(zmqpush.ACK_VERSION, zmqpush.ACK_SAFE, shipper, record)
        with contextlib.suppress(zmq.Again):
            self._pull.send_multipart([peer, header], zmq.DONTWAIT)

    def close(self) -> None:
        """Return when the last answers are sent, or nobody takes them."""
        asyncio.get_running_loop().remove_reader(self._pull.fileno())
        self._pull.close(LAST_ANSWERS_MS)
        zmq.Context.instance().term()

    def _say_once(self, text: str) -> None:
        if not self._told:
            zmqpush.say(text)
        self._told = True


# ---- running ----------------------------------------------------------------------------------


class Collector:
    """Takes what comes and gives it to all sinks, until it is stopped or has enough."""

    def __init__(self, pull: Pull, sinks: list[Sink], limit: float) -> None:
        self.events = 0  # that all sinks have
        self.bytes = 0
        self.in_hand = 0  # events that not all sinks have
        self.stopping = False
        self.has_enough = False
        self._pull = pull
        self._sinks = sinks
        self._limit = limit
        self._started_at = time.monotonic()
        self._kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kept.set_result(None)

    async def run(self) -> None:
        """Raises BrokenPipeError where nobody reads standard output any more."""
        router = self._pull if isinstance(self._pull, Router) else None
        while self._wants_more():
            taken = await (self._take_offers(router) if router else self._take())
            # What is not acknowledged, its shipper keeps: there it need not be taken first.
            if self.stopping and (not taken or router):
                break
            if taken:
                await asyncio.sleep(0)  # let signals and timers have their turn
            elif self._wants_more():
                await self._pull.wait()
        await self._kept

    def _wants_more(self) -> bool:
        return self.events < self._limit and not self.has_enough

    async def _take(self) -> bool:
        """Take what is there, and give it to the sinks; whether there was something."""
        frames = self._pull.take(int(min(MOST_FRAMES, self._limit - self.events)))
        if frames:
            await self._give(events_of(frames))
        return bool(frames)

    async def _give(self, events: list[bytes]) -> None:
        if len(events) > self._limit - self.events:
            del events[int(self._limit - self.events) :]
        if not events:
            return
        self.in_hand = len(events)
        await together(
            [insist(sink, functools.partial(sink.write, events)) for sink in self._sinks]
        )
        self.in_hand = 0
        self.events += len(events)
        self.bytes += sum(map(len, events))

    async def _take_offers(self, router: Router) -> bool:
        """Take what is there, while the sinks keep what was there before; whether there was any."""
        offers = router.take_offers(MOST_OFFERS)
        await self._kept
        if offers and self._wants_more():
            self._kept = asyncio.ensure_future(self._keep(router, offers))
        return bool(offers)

    async def _keep(self, router: Router, offers: list[Offer]) -> None:
        """Give `offers` to all sinks, and answer what all of them have."""
        self.in_hand = sum(len(offer.events) for offer in offers)
        kept = await together(
            [insist(sink, functools.partial(sink.keep, offers)) for sink in self._sinks]
        )
        self.in_hand = 0
        for offer in offers:
            if offer.is_new:
                self.events += len(offer.events)
                self.bytes += sum(map(len, offer.events))
        for peer, shipper in {(offer.peer, offer.shipper): None for offer in offers}:
            router.answer(peer, shipper, min(records[shipper] for records in kept))

    def stop(self) -> None:
        """Let it end, with what is there."""
        self.stopping = True
        self._pull.announce()

    def take_no_more(self) -> None:
        """Let it end with what it has in hand."""
        self.has_enough = True

    def counters(self) -> None:
        """Say them on stderr."""
        zmqpush.say(
            f"{time.monotonic() - self._started_at:.1f}s: {self.events} events written "
            f"({self.bytes} bytes), {self.in_hand} in hand"
        )


Got = TypeVar("Got")


async def together(attempts: list[Coroutine[Any, Any, Got]]) -> list[Got]:
    """What all of them give; one alone needs no task, which takes three turns of the event loop."""
    if len(attempts) == 1:
        return [await attempts[0]]
    return await asyncio.gather(*attempts)


async def insist(sink: Sink, attempt: Callable[[], Awaitable[Got]]) -> Got:
    """What `attempt` at `sink` gives when it succeeds, however long that takes."""
    failing = False
    while True:
        try:
            got = await attempt()
            break
        except Trouble as trouble:
            if not failing:
                zmqpush.say(f"{sink.name}: {trouble}; the senders have to wait")
            failing = True
            await asyncio.sleep(RETRY_S)
    if failing:
        zmqpush.say(f"{sink.name}: going on")
    return got


async def collect(options: argparse.Namespace) -> int:
    """Collect until the end; returns the exit status."""
    zmqpush.allow_open_files()  # a connection takes one
    sinks = open_sinks(options)
    try:
        pull = (Router if options.ack else Pull)(options.bind, options.connect)
    except OSError as error:
        zmqpush.fail(f"{error.filename}: {error.strerror}")
    collector = Collector(pull, sinks, options.n or math.inf)
    loop = asyncio.get_running_loop()
    gave_up = loop.create_future()

    def end() -> None:
        if not gave_up.done():
            gave_up.set_result(None)

    def on_signal(number: int) -> None:
        if collector.stopping and number == signal.SIGINT:
            end()
        elif not collector.stopping:
            collector.stop()
            loop.call_later(GRACE_AFTER_SIGNAL_S - LAST_WRITE_S, collector.take_no_more)
            loop.call_later(GRACE_AFTER_SIGNAL_S, end)

    def reopen() -> None:
        for sink in sinks:
            if isinstance(sink, File):
                sink.reopen()

    loop.add_signal_handler(signal.SIGINT, on_signal, signal.SIGINT)
    loop.add_signal_handler(signal.SIGTERM, on_signal, signal.SIGTERM)
    loop.add_signal_handler(signal.SIGHUP, reopen)
    loop.add_signal_handler(signal.SIGUSR1, collector.counters)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if options.stats:
        zmqpush.repeat(collector.counters, options.stats)
    collecting = loop.create_task(collector.run())
    await asyncio.wait({collecting, gave_up}, return_when=asyncio.FIRST_COMPLETED)
    if collecting.done():
        with contextlib.suppress(BrokenPipeError):
            collecting.result()
    lost = 0 if collecting.done() or options.ack else collector.in_hand
    if lost:
        zmqpush.say(
            f"gave up at most {lost} events that could not be written, "
            "and what libzmq held, which it does not tell"
        )
    if isinstance(pull, Router):
        pull.close()
    if not options.quiet:
        zmqpush.say(f"{collector.events} events written")
    return 1 if lost else 0


# ---- command line -----------------------------------------------------------------------------


def build_parser(description: str) -> zmqpush.Parser:
    """All options."""
    parser = zmqpush.Parser(description, "ZMQPULL_")
    parser.add_argument("--version", action="version", version=f"%(prog)s {zmqpush.__version__}")
    option = parser.option
    # fmt: off
    option("-b", "--bind", metavar="ENDPOINT", type=zmqpush.BIND, default=[],
           help=f"let senders connect; repeatable ({DEFAULT_ENDPOINT})")
    option("-c", "--connect", metavar="ENDPOINT", type=zmqpush.CONNECT, default=[],
           help="connect to a sender that binds; repeatable")
    option("-o", "--output", metavar="FILE", default=[],
           help="append to FILE; SIGHUP opens it anew; repeatable")
    option("--redis", metavar="URL", default="",
           help="push to a list in Redis, such as redis://localhost:6379/0 (needs redis)")
    option("--key", metavar="NAME", default="logstash", help="the list's name (logstash)")
    option("--redis-limit", metavar="N", type=zmqpush.COUNT, default=0,
           help="wait while the list has N elements")
    option("--sqlite", metavar="FILE", default=[],
           help="insert into the table `event` of an SQLite database; repeatable")
    option("-n", metavar="N", type=zmqpush.COUNT, default=0, help="end after N events")
    option("--ack", action="store_true", default=False,
           help="acknowledged delivery, from zmqpush.py --ack; --bind only")
    option("--stats", metavar="SECONDS", type=zmqpush.INTERVAL, default=0.0,
           help="counters on stderr that often; SIGUSR1 asks for them at once")
    option("-q", "--quiet", action="store_true", default=False, help="no count at the end")
    # fmt: on
    return parser


def parse_options(parser: zmqpush.Parser, arguments: list[str]) -> argparse.Namespace:
    """The options, made sure to fit together."""
    options = parser.parse(arguments)
    options.bind = options.bind or ([] if options.connect else [DEFAULT_ENDPOINT])
    for endpoint in options.bind:
        if endpoint in options.connect:
            parser.error(f"{endpoint} cannot be both bound and connected to")
    if options.ack and options.connect:
        parser.error("--ack binds: it cannot be used with --connect")
    if options.redis_limit and not options.redis:
        parser.error("--redis-limit is for --redis")
    if options.redis:
        try:
            import redis.asyncio  # noqa: F401
        except ImportError as missing:
            parser.error(f"--redis: {missing}; install redis")
    return options


def main() -> None:
    """Run the program."""
    zmqpush.open_standard_descriptors()
    options = parse_options(build_parser(__doc__.partition("\n")[0]), sys.argv[1:])
    os._exit(asyncio.run(collect(options)))  # without waiting for libzmq's threads


if __name__ == "__main__":
    main()

"""`--omprog`: rsyslog's dialogue with a program, whose side we are.

    rsyslog --message--> stdin --> Omprog --> backlog, or past it into libzmq
            <--answer--- stdout <--

See plugins/external/INTERFACE.md in rsyslog's repository. rsyslog writes a message, waits for the
answer, and writes the next. It keeps a message until the answer is OK; any other text means that we
do not have it, and it comes again. In a transaction OK is for the commit, and lines are answered
DEFER_COMMIT: should we die, rsyslog 8.2302 does not send those again: they are ours to keep.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import time
from collections.abc import Iterator
from typing import Any, Protocol

import zmqpush
from zmqlines.finished import Finished
from zmqlines.pieces import Piece
from zmqpush import Backlog, CannotKeep, EventFormat, Link, Stdin

STILL_WORKING_S = 2.0  # rsyslog's confirmTimeout is 10 s
HALF_S = 3.0  # after so long half a message is told
MARKS = ["BEGIN TRANSACTION", "COMMIT TRANSACTION"]  # rsyslog's defaults


def check(options: argparse.Namespace) -> None:
    """Raises ValueError where it does not go with the other options."""
    if options.omprog_transactions and not options.omprog:
        raise ValueError("--omprog-transactions is for --omprog")
    marks = [options.omprog_begin, options.omprog_commit]
    if not options.omprog_transactions and marks != MARKS:
        raise ValueError("--omprog-begin and --omprog-commit are for --omprog-transactions")
    if marks[0] == marks[1] or not all(marks):
        raise ValueError("--omprog-begin and --omprog-commit must be two texts")


# ---- answers that need no waiting -------------------------------------------------------------


class Shortcut(Protocol):
    """Takes a message at once, where that can be: it saves turns of the event loop."""

    def put(self, text: bytes) -> bool:
        """Whether `text` was taken, as one event. Raises CannotKeep."""

    def save(self, text: bytes) -> bool:
        """As `put()`, and it is safe then: rsyslog may forget it. Raises CannotKeep."""

    def take_back(self, events: list[Finished]) -> None:
        """After a CannotKeep: rsyslog is told that we do not have `events`, which come again."""


class NoShortcut:
    """Where more has to happen before an OK."""

    def put(self, text: bytes) -> bool:
        return False

    save = put

    def take_back(self, events: list[Finished]) -> None:
        """A backlog in memory refuses nothing."""


class PastTheQueue:
    """Into libzmq, where nothing waits that it would overtake."""

    def __init__(self, backlog: Backlog, form: EventFormat, link: Link) -> None:
        self._backlog = backlog
        self._form = form
        self._link = link

    def put(self, text: bytes) -> bool:
        backlog = self._backlog
        if backlog.size or not self._link.met_collector.is_set():
            return False
        message = self._form.message(text, backlog.now_ms())
        if not self._link.send(iter((message,)), len(message)):
            return False
        backlog.sent += 1  # past the queue, while nothing waited there
        backlog.sent_before = backlog.sent
        backlog.last_sent_at = time.monotonic()
        return True

    save = put

    def take_back(self, events: list[Finished]) -> None:
        """What libzmq has is sent."""


class Journal(Protocol):
    """What a shortcut needs of a spool."""

    limit: int
    size: int

    def put_chunk(self, chunk: zmqpush.Sendable) -> None: ...
    def take_back(self, chunks: list[Finished]) -> None: ...
    def syncs_quickly(self) -> bool: ...
    def sync(self) -> None: ...
    def now_ms(self) -> int: ...


class OntoDisk:
    """Into the spool, where a sync takes no longer than it would take to wait for it."""

    def __init__(self, spool: Journal, form: EventFormat) -> None:
        self._spool = spool
        self._form = form

    def put(self, text: bytes) -> bool:
        return self._put(text) is not None

    def _put(self, text: bytes) -> Finished | None:
        spool = self._spool
        if 0 < spool.limit <= spool.size:
            return None
        event = event_of(text, self._form, spool.now_ms())
        spool.put_chunk(event)
        return event

    def save(self, text: bytes) -> bool:
        event = self._put(text) if self._spool.syncs_quickly() else None
        if event is None:
            return False
        try:
            self._spool.sync()
        except CannotKeep:
            self.take_back([event])
            raise
        return True

    def take_back(self, events: list[Finished]) -> None:
        self._spool.take_back(events)


def shortcut(options: argparse.Namespace, backlog: Any, form: EventFormat, link: Link) -> Shortcut:
    """The one that goes with the options."""
    if options.spool:
        return OntoDisk(backlog, form)
    return NoShortcut() if options.ack else PastTheQueue(backlog, form, link)


def event_of(text: bytes, form: EventFormat, read_at_ms: int) -> Finished:
    """All of `text` as one event, whatever is in it."""
    return Finished(form.message(text, read_at_ms), 1, form.batch)


# ---- the dialogue -----------------------------------------------------------------------------


class Omprog:
    """Puts messages into the backlog, and answers when that can be said."""

    def __init__(
        self, options: argparse.Namespace, form: EventFormat, backlog: Backlog, way: Shortcut
    ) -> None:
        self.is_heard = True  # stdout is open
        self._form = form
        self._backlog = backlog
        self._shortcut = way
        self._max_line = options.max_line
        self._cut = 0  # messages that came in pieces
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
                zmqpush.say(f"cannot write to standard output: {error.strerror}")

    def answered_at_once(self, lines: bytes) -> bool:
        """Whether `lines`, a message, could be answered without waiting."""
        text = self._text(lines)
        is_mark = self._transactions and text in (self._begin, self._commit)
        if is_mark or len(text) > (self._max_line or len(text)):
            return False
        try:
            if self._in_transaction:
                answer = "DEFER_COMMIT" if self._shortcut.put(text) else ""
            else:
                answer = "OK" if self._shortcut.save(text) else ""
        except CannotKeep as error:
            answer = str(error)
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
        except CannotKeep as error:
            answer = str(error)
        finally:
            self._asker = None
        self._backlog.unanswered = 0
        self.write(f"{answer}\n")

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
        events = [
            event_of(piece, form, backlog.now_ms())
            for piece, form in self._pieces(text, self._max_line or len(text))
        ]
        try:
            for event in events:
                backlog.put_chunk(event)
            if self._in_transaction:
                return "DEFER_COMMIT"
            backlog.unanswered = len(events)
            await backlog.safe()
        except CannotKeep:
            self._shortcut.take_back(events)
            raise
        return "OK"

    def _pieces(self, text: bytes, size: int) -> Iterator[tuple[bytes, EventFormat]]:
        """All of `text`, and what makes the event of each piece."""
        if len(text) <= size:
            yield text, self._form
            return
        self._cut += 1
        offset = 0
        for number, piece in enumerate(zmqpush.pieces(text, size), 1):
            is_last = offset + len(piece) == len(text)
            yield piece, Piece(self._cut, number, offset, len(piece), is_last).form(self._form)
            offset += len(piece)

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


class Messages:
    """rsyslog's messages on stdin: all that has come since the last answer is one.

    It may have line ends inside. What has none at its end when the input ends was not written to
    its end.
    """

    def __init__(self, stdin: Stdin, omprog: Omprog) -> None:
        self._stdin = stdin
        self._omprog = omprog
        self._told = False  # that half a message has waited
        self._half: asyncio.TimerHandle | None = None  # until that is told

    async def next(self) -> bytes:
        """Wait for a message that could not be answered at once; b"" at the end. Raises OSError."""
        stdin = self._stdin
        parts: list[bytes] = []
        stdin.hook = self._was_answered
        while data := await stdin.read():
            stdin.hook = None
            parts.append(data)
            if data.endswith(b"\n") and not stdin.held():
                stdin.is_drained()  # to see that by reading would take a turn
                self._half_waits(0)
                return b"".join(parts)
            self._half_waits(sum(map(len, parts)))
        self._half_waits(0)
        return b""

    def _half_waits(self, size: int) -> None:
        """So many bytes of a message wait for its end: if none comes, say so, once; 0: no more."""
        if self._half:
            self._half.cancel()
        self._half = None
        if size and not self._told:
            loop = asyncio.get_running_loop()
            self._half = loop.call_later(HALF_S, self._say_half, size)

    def _say_half(self, size: int) -> None:
        self._told = True
        zmqpush.say(
            f"{size} bytes have waited for the end of a message for {HALF_S:.0f} s: "
            'does rsyslog\'s template end with "\\n"?'
        )

    def _was_answered(self) -> bool:
        """Whether what there is to read is a message in one piece, and was answered at once."""
        try:
            data = self._stdin.read_now()
        except OSError:  # read() will meet it, too
            return False
        is_whole = data.endswith(b"\n") and not self._stdin.held()
        if is_whole and self._omprog.answered_at_once(data):
            return True
        self._stdin.give_back(data)
        return False


async def omprog_queuer(
    options: argparse.Namespace, stdin: Stdin, backlog: Backlog, form: EventFormat, link: Link
) -> bool:
    """Put the messages of rsyslog into the backlog until they end, and answer each.

    Returns whether the input ended well, as stdin_queuer does.
    """
    omprog = Omprog(options, form, backlog, shortcut(options, backlog, form, link))
    messages = Messages(stdin, omprog)
    complete = True
    try:
        omprog.write("OK\n")
        while omprog.is_heard:
            message = await messages.next()
            if not message or not omprog.is_heard:
                break
            await omprog.answer(message)
    except asyncio.CancelledError:
        if omprog.is_heard:
            raise
    except OSError as error:
        zmqpush.say(f"cannot read standard input: {error.strerror}")
        complete = False
    finally:
        stdin.close()
    await backlog.end()
    return complete

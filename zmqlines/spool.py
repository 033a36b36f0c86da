"""`--spool`: a backlog on disk, journaled before it is sent, which no crash of ours loses.

stdin_queuer() --put--> own file --sync--> loaded chunks --get--> who sends
                        files left behind --load--^                     |
                        rows that have left <------------left()-----+
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import zmqpush
from zmqlines.finished import Finished
from zmqlines.pieces import Piece
from zmqlines.spool_file import LOAD_SIZE, SpoolFile, is_damage, reason
from zmqlines.spool_folder import SpoolFolder
from zmqpush import CannotKeep, EventFormat, Link, Sendable

if TYPE_CHECKING:
    from zmqlines.departures import Sent

SYNC_INTERVAL_S = 0.02
QUICK_SYNC_S = 0.002
SMALL_PUT = 24 * 1024  # bytes; more than that is worth a sync at once
SPOOL_RETRY_S = 1.0


def check(options: argparse.Namespace) -> None:
    """Raises ValueError where it does not go with the other options."""
    if options.spool_limit and not options.spool:
        raise ValueError("--spool-limit is for --spool")
    if options.spool and options.queue_limit:
        raise ValueError("--queue-limit is for lines in memory; with --spool it is --spool-limit")
    if options.spool and not options.sndhwm:
        raise ValueError("--sndhwm 0 lets libzmq hold everything: nothing would ever leave --spool")


def open_spool(options: argparse.Namespace, form: EventFormat) -> Spool:
    """The spool that was asked for. Ends where it cannot be."""
    try:
        return Spool(options.spool, options.spool_limit, form)
    except (OSError, sqlite3.Error) as error:
        zmqpush.fail(f"--spool {options.spool}: {reason(error)}")


def file_of(chunk: Sendable) -> SpoolFile:
    """The file that has `chunk`."""
    assert isinstance(chunk, Finished)
    assert isinstance(chunk.file, SpoolFile)
    return chunk.file


def place_of(row: tuple[SpoolFile, int]) -> tuple[str, int]:
    """Where a row stands among those of all files: the files are named in their order."""
    file, number = row
    return file.path, number


class Spool(zmqpush.Backlog):
    """A backlog in files under one directory: in memory is what is sent next.

    It begins with the files that others have left behind there, oldest first.
    """

    grace_s = zmqpush.LAST_HANDOVER_S  # what is left when it has passed is not lost

    def __init__(self, directory: str, limit: int, form: EventFormat) -> None:
        """Raises OSError and sqlite3.Error."""
        super().__init__(limit, form)
        self.unsaved = 0  # events that were put and are not on disk yet
        self.unsure = 0  # events that were sent, and are kept until they have left this machine
        self.look: Callable[[bool], None] = lambda _: None  # whether some have; it calls `left()`
        self.ended = asyncio.Event()  # nothing more will be put
        self._place = directory
        self._folder = SpoolFolder(directory)
        self._gone: dict[SpoolFile, list[int]] = {}  # numbers that are to be deleted
        self._will_forget = False
        self._returned: collections.deque[tuple[SpoolFile, int]] = collections.deque()  # by number
        self._fresh: list[Finished] = []  # chunks of ours that are not synced
        self._again: list[Finished] = []  # of a damaged file, to append to another; the last first
        self._synced = 0  # number of our last one that is
        self._put_size = 0  # bytes that were put at a time
        self._synced_at = 0.0
        self._sync_s = 0.0  # how long it took
        self._loaded: collections.deque[Finished] = collections.deque()
        self._loaded_size = 0
        self._turn_size = 0  # bytes that were taken since others had their turn
        self._told = False  # that it could not be written, since there was room
        self._adopt()

    def place(self) -> str:
        """Where the lines wait, for a message."""
        return f" in {self._place}"

    def reads_from(self, stdin: zmqpush.Stdin) -> None:
        """Let the pipe hold much: what fits is there all at once, and shares a sync."""
        stdin.widen()

    # what stdin_queuer and omprog_queuer call

    async def put(self, lines: bytes, piece: Piece | None = None) -> None:
        """Journal `lines`, read just now; where that cannot be, wait until it can."""
        if not lines:
            return
        form = piece.form(self._form) if piece else self._form
        messages = form.messages(lines, self.now_ms())
        count = len(messages) if form.batch == 1 else lines.count(b"\n")
        chunk = Finished(b"\n".join(messages), count, form.batch, messages)
        self.unsaved = count
        while self.unsaved or self._fresh or self._again:
            try:
                if self.unsaved:
                    self._append(chunk)
                self.unsaved = 0
                await self._save()
            except (OSError, sqlite3.Error) as error:
                await self._wait_for_disk(error)
        self._put_size = chunk.size

    def put_chunk(self, chunk: Sendable) -> None:
        """Append `chunk`; `safe()` tells when it is on the disk. Raises CannotKeep."""
        assert isinstance(chunk, Finished)
        with cannot_keep():
            self._append(chunk)

    def syncs_quickly(self) -> bool:
        """Whether to go to a thread for a sync would take as long as the sync."""
        return self._sync_s < QUICK_SYNC_S

    def sync(self) -> None:
        """Return when all that was put is on the disk; nobody has a turn. Raises CannotKeep."""
        with cannot_keep():
            self._sync()

    async def safe(self) -> None:
        """Return when all that was put is on the disk. Raises CannotKeep."""
        with cannot_keep():
            await self._save()

    async def room(self) -> None:
        """Wait until less than the limit waits; what is not synced could not be sent.

        Raises CannotKeep.
        """
        if 0 < self.limit <= self.size:
            await self.safe()
        await super().room()

    def rest_s(self) -> float:
        """How long what comes next may gather, to share a sync, before it is put."""
        is_small = self._put_size < SMALL_PUT
        return self._synced_at + SYNC_INTERVAL_S - time.monotonic() if is_small else 0.0

    async def end(self) -> None:
        """Nothing more will be put."""
        try:
            with contextlib.suppress(CannotKeep):  # what could not be synced goes to another file
                await self.safe()
            await self.safe()
        except CannotKeep as error:
            zmqpush.say(str(error))
        self.ended.set()
        self.announce()

    async def _wait_for_disk(self, error: Exception) -> None:
        """It could not be written: say so, and let some time pass."""
        if not self._told:
            zmqpush.say(f"{not_written(error)}; reading on when that is over")
        self._told = True
        await asyncio.sleep(SPOOL_RETRY_S)
        self.look(True)
        self._forget()  # which may have failed as well

    async def _save(self) -> None:
        if self._fresh or self._again:
            self._renew()
        if not self._fresh:
            return
        if self.syncs_quickly() and not self._loaded:
            self._sync()  # to go to a thread and back takes as long, and nothing could be sent
            return
        own = self._own()
        self._synced_at = time.monotonic()
        try:
            await asyncio.get_running_loop().run_in_executor(None, own.sync)
        except OSError:
            self._write_again(own)
            raise
        if own.closed:  # meanwhile it was found to be damaged
            await self._save()
        else:
            self._now_synced()

    def _sync(self) -> None:
        self._synced_at = time.monotonic()
        own = self._own()
        try:
            own.sync()
        except OSError:
            self._write_again(own)
            raise
        self._now_synced()

    def _now_synced(self) -> None:
        """All that was put is on the disk, and can be sent."""
        own = self._own()
        self._sync_s = time.monotonic() - self._synced_at
        self._folder.stay_in_place()
        for chunk in self._fresh:
            # If it comes next, and there is room, it need not be read again.
            comes_next = self._synced == own.loaded == chunk.number - 1
            in_turn = comes_next and not self._folder.left_behind
            if in_turn and self._loaded_size < LOAD_SIZE:
                self._keep(chunk)
                own.loaded = chunk.number
                own.held += 1
            self._synced = chunk.number
        self._fresh.clear()
        self.announce()

    def _append(self, chunk: Finished) -> None:
        self._renew()
        own = self._own()
        try:
            own.append(chunk)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self._put_aside(own, error)
            self._append(chunk)
        else:
            self._fresh.append(chunk)
            self._grown(chunk.size)
            self._folder.changed()

    def _write_again(self, own: SpoolFile) -> None:
        """What was put could not be synced to `own`: write it to another file."""
        if own.closed:  # it was found to be damaged meanwhile
            return
        self.size -= sum(chunk.size for chunk in self._fresh)
        with contextlib.suppress(sqlite3.Error):  # then it may be sent twice
            own.take_back(self._fresh)
        self._folder.retire_own(self._synced)
        self._again += reversed(self._fresh)
        self._fresh.clear()

    def take_back(self, chunks: list[Finished]) -> None:
        """Their writer was told that we do not have `chunks`, which are not on the disk."""
        fresh = [chunk for chunk in chunks if chunk in self._fresh]
        if fresh:
            self.size -= sum(chunk.size for chunk in fresh)
            with contextlib.suppress(sqlite3.Error):  # then it may be sent twice
                self._own().take_back(fresh)
        self._fresh = [chunk for chunk in self._fresh if chunk not in fresh]
        self._again = [chunk for chunk in self._again if chunk not in chunks]

    def _own(self) -> SpoolFile:
        """Our own file, which has what is not synced."""
        assert self._folder.own
        return self._folder.own

    def _renew(self) -> None:
        """If our file was damaged, begin a new one, with what was not synced to that."""
        if not self._folder.own or self._folder.own.closed:
            self._folder.begin_anew()
            self._synced = 0
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
        if self._turn_size >= zmqpush.CHUNK_SIZE or not self._loaded:
            self._turn_size = 0
            await asyncio.sleep(0)  # let stdin and signals have their turn
        chunk = self._read_returned()
        while not (chunk or self._loaded):
            ended = self.ended.is_set()
            if self._news.done():  # several may wait for it
                self._expect_news()
            self._load()
            if self._loaded:
                break
            if ended and not self._folder.will_go_on():
                return None
            self._told = self._told and (self.unsaved > 0 or self._folder.is_short())
            await asyncio.wait({self._news})
            chunk = self._read_returned()
        if not chunk:
            chunk = self._loaded.popleft()
            self._loaded_size -= chunk.size
        self._turn_size += chunk.size
        self._in_hand.append(chunk)
        return chunk

    def shipper_of(self, chunk: Sendable) -> bytes:
        """Whose it is: 16 bytes, which belong to this process or to a file."""
        return file_of(chunk).shipper_of(chunk.number)

    def done(self, chunk: Sendable, messages: int) -> None:
        """`chunk` was taken by libzmq, whole, as so many messages; or, if 0, acknowledged."""
        super().done(chunk, messages)
        file = file_of(chunk)
        file.events -= chunk.count()
        file.size -= chunk.size
        self._folder.changed()
        if messages:
            self.unsure += chunk.count()
        else:
            self._let_go(file, chunk.number)

    def left(self, sent: Iterable[Sent]) -> None:
        """These have left this machine: their rows are deleted."""
        for each in sent:
            self.unsure -= each.events
            self._let_go(each.file, each.number)

    def put_back(self, sent: Iterable[Sent], chunk: Sendable | None) -> None:
        """These may not have left, and `chunk` was not sent whole: they are to be sent again."""
        for file, number, events, size, *_ in sent:
            self.unsure -= events
            if file.closed:
                zmqpush.say(f"gave up at most {events} messages: {file.path} is damaged")
                continue
            file.events += events
            file.size += size
            self.sent -= events
            self._grown(size)
            self._returned.append((file, number))
        self._returned = collections.deque(sorted(self._returned, key=place_of))
        self._folder.changed()
        self.sent_before = self.sent
        if chunk:
            assert isinstance(chunk, Finished)
            self._in_hand.remove(chunk)
            self._loaded.appendleft(chunk)
            self._loaded_size += chunk.size
        self.announce()

    def _read_returned(self) -> Finished | None:
        """The next one that was put back, from its file: all of it comes before what is loaded."""
        while self._returned:
            file, number = self._returned.popleft()
            try:
                if not file.closed:
                    return file.read(number)
            except sqlite3.Error as error:
                self._put_aside(file, error)
        return None

    def is_at_end(self) -> bool:
        """Whether nothing waits, and nothing more will come."""
        if not self.ended.is_set() or self._in_hand or self._returned:
            return False
        self._load()
        return not (self._loaded or self._folder.will_go_on())

    def _let_go(self, file: SpoolFile, number: int) -> None:
        self._gone.setdefault(file, []).append(number)
        if not self._will_forget:  # in the next turn of the event loop: many at once
            self._will_forget = True
            asyncio.get_running_loop().call_soon(self._forget)

    def _forget(self) -> None:
        """Delete what has left."""
        self._will_forget = False
        for file, numbers in list(self._gone.items()):
            try:
                file.forget(numbers)
            except sqlite3.Error:  # a full disk: the next attempt may do it
                if not self._folder.discard(file, len(numbers)):
                    continue
            del self._gone[file]
            self._folder.let_go(file)

    def _load(self) -> None:
        """Bring the next chunks into memory: what was left behind comes first."""
        folder = self._folder
        while not self._loaded:
            file, until = folder.own, float(self._synced)
            if folder.left_behind:
                file, until = folder.left_behind[0], folder.left_behind[0].until
            try:
                chunks = file.load(until) if file else []
            except sqlite3.Error as error:
                assert file
                self._put_aside(file, error)
                continue
            for chunk in chunks:
                self._keep(chunk)
            if chunks:
                return
            if file and file is not folder.own:
                folder.left_behind.popleft()
                folder.let_go(file)
                continue
            self._adopt()
            if not folder.left_behind:
                return

    def _keep(self, chunk: Finished) -> None:
        self._loaded.append(chunk)
        self._loaded_size += chunk.size

    def _adopt(self) -> None:
        self.size += self._folder.adopt(self.announce)
        if self._folder.is_waiting:
            self.look(True)  # files that are done with give their descriptors back

    def _put_aside(self, file: SpoolFile, error: sqlite3.Error) -> None:
        """`file` is damaged: go on with what was loaded, without it."""
        self.size -= file.size
        for chunk in [*self._loaded, *self._in_hand]:  # of these there is a copy in memory
            self.size += chunk.size if file_of(chunk) is file else 0
        self._room.set()
        self._folder.put_aside(file, error)

    # the end

    def waiting(self) -> int:
        """How many events wait to be sent, those that cannot be written included."""
        count = sum(file.events for file in self._folder.files) + self.unsaved + self.homeless()
        return count - self._begun()

    def homeless(self) -> int:
        """How many events are in memory alone, since their file was put aside."""
        chunks = [*self._in_hand, *self._loaded]
        return sum(chunk.count() for chunk in chunks if file_of(chunk) not in self._folder.files)

    def uncertain(self) -> int:
        """How many events are kept although they were sent: they may still be in this process."""
        return self.unsure + self._begun()

    def close(self, delivered: bool) -> None:
        """Everything was `delivered`, or nobody tries any longer."""
        self.look(False)
        self._forget()
        if not delivered or self.unsure:
            self._keep_in_place()
        if delivered and self.unsure:
            self._say_kept(0)
        self._folder.close()

    def _keep_in_place(self) -> None:
        """Let what is left be where the next start looks; what cannot be there is not saved."""
        try:
            self._folder.stay_in_place()
        except (OSError, sqlite3.Error) as error:
            zmqpush.say(not_written(error))
            for file in self._folder.files:
                if not file.is_in_place():
                    self.unsaved += file.events
                    file.events = 0

    def say_left(self, undelivered: int, link: Link) -> bool:
        """Say what is left in the spool, and what could not be; whether any of that is lost."""
        homeless = self.homeless()
        if self.unsaved:
            zmqpush.say(f"gave up {self.unsaved} messages: they could not be written to the spool")
        if homeless:
            zmqpush.say(f"gave up at most {homeless} messages: the file that had them is damaged")
        waiting = self.waiting() - self.unsaved - homeless
        if waiting or self.uncertain():
            self._say_kept(waiting)
        return self.unsaved + homeless > 0

    def _say_kept(self, waiting: int) -> None:
        zmqpush.say(
            f"{waiting} messages wait in {self._place}, and {self.uncertain()} that were "
            "handed over and may have arrived: the next start sends them"
        )


@contextlib.contextmanager
def cannot_keep() -> Iterator[None]:
    """Let what goes wrong on disk be CannotKeep."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise CannotKeep(not_written(error)) from None


def not_written(error: Exception) -> str:
    """What to say where the spool cannot be written."""
    return f"cannot write to the spool: {reason(error)}"

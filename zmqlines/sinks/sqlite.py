"""Events in a table of an SQLite database, to ask with SQL."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmqpush
from zmqlines.ack import LONGEST_STEP_S, RECORD_LASTS_S, Offer, sort_out
from zmqlines.events import STRICT, after_blanks
from zmqlines.sinks.contract import Refused, Sink, Trouble, identity

OPENING_MS = 1000  # how long the database may be in use by another when we begin
BUSY_MS = 100  # and later, without a word about it
IN_USE = ("database is locked", "database schema is locked")  # sqlite3_errstr(); 3.11 has codes
APPLICATION_ID = 0x7A6D7170  # "zmqp": what our databases have in their header (file(1))
VERSION = 1  # of their tables
TOO_LARGE = (sqlite3.DataError, OverflowError)  # for SQLite (1 GB), and for its interface (2 GB)


def add_options(option: Callable[..., Any]) -> None:
    """Those of this sink."""
    option(
        "--sqlite",
        metavar="FILE",
        default=[],
        help="insert into the table `event` of an SQLite database; repeatable",
    )


def check(options: argparse.Namespace) -> None:
    """Any of them go together."""


def sinks(options: argparse.Namespace) -> list[Sink]:
    """Those that were asked for. Raises ValueError."""
    opened: list[Sink] = []
    for path in options.sqlite:
        try:
            opened.append(Sqlite(path))
        except (sqlite3.Error, ValueError) as error:
            for sink in opened:
                sink.close()
            raise ValueError(f"--sqlite {path}: {error}") from None
    return opened


class Sqlite(Sink):
    """A table of events, and one with a record for each shipper."""

    SCHEMA = f"""
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = FULL;
        BEGIN IMMEDIATE;
        PRAGMA application_id = {APPLICATION_ID};
        PRAGMA user_version = {VERSION};
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
            seen INTEGER NOT NULL  -- when, by the age in `clock`
        );
        CREATE TABLE IF NOT EXISTS clock (  -- with --ack; one row
            at INTEGER NOT NULL,  -- the system's time when it was looked at last, seconds
            age INTEGER NOT NULL  -- seconds in which a collector was at work; a jump counts little
        );
        CREATE INDEX IF NOT EXISTS shipper_seen ON shipper (seen);
        CREATE INDEX IF NOT EXISTS event_received ON event (received);
        CREATE INDEX IF NOT EXISTS event_type ON event (type, received);
        COMMIT;
    """

    def __init__(self, path: str) -> None:
        """Raises sqlite3.Error, and ValueError where the database is not ours."""
        self.name = path
        self._path = os.path.abspath(path)
        self._carried: list[tuple[bytes, int, int]] = []  # records of a file that was taken away
        self._is_open = False
        try:
            self._open(OPENING_MS)
        except sqlite3.OperationalError as error:
            if str(error) not in IN_USE:
                raise
            # Another collector may be there, too, and may have been stopped: begin() waits for it.

    async def begin(self) -> None:
        """Open the database, if that was not possible yet. Raises Trouble."""
        self._look()

    def _open(self, busy_ms: int) -> None:
        refuse_others(self._path, busy_ms)
        self._db = sqlite3.connect(self._path, isolation_level=None, timeout=busy_ms / 1000)
        try:
            self._db.executescript(self.SCHEMA)
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(
                    "INSERT INTO shipper VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "
                    "SET record = max(record, excluded.record)",
                    self._carried,
                )
            self._carried = []
            # With O_PATH: to close another descriptor would undo SQLite's locks (fcntl_locking(2)).
            self._witness = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        except (sqlite3.Error, OSError):
            self._db.close()
            raise
        self._files = self._found()
        self._is_open = True

    async def write(self, events: list[bytes]) -> None:
        """Insert `events`, all or none."""
        while True:
            self._look()
            with self._transaction():
                self._insert(events)
            if not self._is_removed():
                return

    async def keep(self, offers: list[Offer]) -> dict[bytes, int]:
        """Insert what is new in `offers`; returns the shippers' records, which are there, too."""
        while True:
            self._look()
            with self._transaction():
                before = {offer.shipper: self._record_of(offer.shipper) for offer in offers}
                taken, records = sort_out(offers, before.get)
                self._insert(list(itertools.chain.from_iterable(offer.events for offer in taken)))
                self._put_records(records)
            if not self._is_removed():
                break
            with self._transaction():  # these events nobody can see: they do not count
                self._put_back(before)
        for offer in taken:
            offer.is_new = True
        self.say_gaps(offers, before)
        if self._is_moved():
            self._look()  # what it has must be in the file itself before that is answered for
        return records

    async def forget(self, shippers: list[bytes]) -> None:
        """Keep no record of them."""
        self._look()
        with self._transaction():
            self._db.executemany(
                "DELETE FROM shipper WHERE id = ?", [(shipper,) for shipper in shippers]
            )

    # ---- what becomes of the file -------------------------------------------------------------

    def reopen(self) -> None:
        """Leave the database whole, and go on in the one that is at the path now."""
        with contextlib.suppress(Trouble):  # which the next write says
            self._renew()

    def close(self) -> None:
        """Put all that was written into the one file."""
        if not self._is_open:
            return
        self._is_open = False
        is_whole = self._empty_log()
        is_here = self._found()[0] == self._files[0]
        self._db.close()
        os.close(self._witness)
        if is_here or not is_whole:
            return
        # A database that is made at the same path would take these for its own.
        for path, file in list(zip(self._paths(), self._files))[1:]:
            if file and identity(path) == file:
                os.unlink(path)

    def _empty_log(self) -> bool:
        """Put what the log has into the file, which SQLite leaves undone for one that was renamed.

        Not possible while another program reads.
        """
        try:
            ((is_busy, *_),) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            return False
        return not is_busy

    def _paths(self) -> list[str]:
        return [self._path, f"{self._path}-wal", f"{self._path}-shm"]

    def _found(self) -> list[tuple[int, int] | None]:
        return list(map(identity, self._paths()))

    def _is_moved(self) -> bool:
        return self._found() != self._files

    def _is_removed(self) -> bool:
        """Whether nobody can see the file any more."""
        return not os.fstat(self._witness).st_nlink

    def _look(self) -> None:
        """Go on in a new file where somebody has taken the old one away. Raises Trouble."""
        if self._is_open and not self._is_moved():
            return
        was_open = self._is_open
        self._renew()
        if was_open:
            zmqpush.say(f"{self.name}: it was removed or renamed; going on in a new file")

    def _renew(self) -> None:
        """Close what is open, open what is there now, with the same records. Raises Trouble."""
        if self._is_open:
            if not self._empty_log() and not self._is_removed():
                raise Trouble("it was renamed while another program reads it")
            with contextlib.suppress(sqlite3.Error):  # of a damaged one there are none
                rows = self._db.execute("SELECT id, record, 0 FROM shipper")
                self._carried = rows.fetchall()
            self.close()
        try:
            self._open(BUSY_MS)
        except (sqlite3.Error, OSError, ValueError) as error:
            raise Trouble(str(error)) from None

    # ---- what is in it ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._db:  # commits, or rolls back
                self._db.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            raise Trouble(str(error)) from None

    def _insert(self, events: list[bytes]) -> None:
        """Raises Refused, within a transaction that is rolled back then."""
        try:
            self._insert_all(self.wanted(events))
        except TOO_LARGE as error:
            for event in sorted(self.wanted(events), key=len, reverse=True):
                try:
                    self._insert_all([event])
                except TOO_LARGE:
                    raise Refused(event, str(error)) from None
            raise

    def _insert_all(self, events: list[bytes]) -> None:
        received = now()
        self._db.executemany(
            "INSERT INTO event (received, type, message, event) VALUES (?, ?, ?, ?)",
            [(received, *columns(event)) for event in events],
        )

    def _put_records(self, records: dict[bytes, int]) -> None:
        """Note that these shippers were here, and forget those who were not for a month."""
        age = self._age()
        self._db.executemany(
            "INSERT INTO shipper VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "
            "SET record = excluded.record, seen = excluded.seen",
            [(shipper, record, age) for shipper, record in records.items() if record],
        )
        self._db.execute("DELETE FROM shipper WHERE seen < ?", (age - RECORD_LASTS_S,))

    def _put_back(self, before: dict[bytes, int | None]) -> None:
        self._db.executemany("DELETE FROM shipper WHERE id = ?", [(each,) for each in before])
        self._put_records({shipper: record or 0 for shipper, record in before.items()})

    def _age(self) -> int:
        """Seconds for which collectors have written here, whatever the system's clock did."""
        at = int(time.time())
        row = self._db.execute("SELECT at, age FROM clock").fetchone()
        if not row:
            self._db.execute("INSERT INTO clock VALUES (?, 0)", (at,))
            return 0
        age: int = row[1] + min(max(at - row[0], 0), LONGEST_STEP_S)
        self._db.execute("UPDATE clock SET at = ?, age = ?", (at, age))
        return age

    def _record_of(self, shipper: bytes) -> int | None:
        row = self._db.execute("SELECT record FROM shipper WHERE id = ?", (shipper,)).fetchone()
        return row[0] if row else None


def refuse_others(path: str, busy_ms: int) -> None:
    """Raise ValueError where the database at `path` is not ours; it is only looked at."""
    if not os.path.exists(path) or not os.path.getsize(path):
        return
    to_read = f"{Path(path).as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(to_read, uri=True, timeout=busy_ms / 1000)) as db:
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID and version != VERSION:
        raise ValueError(f"its tables are of version {version}, this program knows {VERSION}")
    if application != APPLICATION_ID and (tables or application):
        raise ValueError("it is another program's database")


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

"""Events in a table of an SQLite database, to ask with SQL."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import zmqpush
from zmqlines.ack import RECORD_LASTS_S, Offer, sort_out
from zmqlines.events import STRICT, after_blanks
from zmqlines.sinks.contract import Sink, Trouble

OPENING_S = 5.0  # how long the database may be in use by another when we begin
BUSY_MS = 100  # and later, without a word about it


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
    try:
        return list(map(Sqlite, options.sqlite))
    except sqlite3.Error as error:
        raise ValueError(f"--sqlite {' '.join(options.sqlite)}: {error}") from None


class Sqlite(Sink):
    """A table of events, and one with a record for each shipper."""

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

    async def forget(self, shippers: list[bytes]) -> None:
        """Keep no record of them."""
        with self._transaction():
            self._db.executemany(
                "DELETE FROM shipper WHERE id = ?", [(shipper,) for shipper in shippers]
            )

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

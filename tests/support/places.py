"""Where a collector puts events, looked at from outside."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.support.collector import strict_json
from tests.support.waiting import DEADLINE_S, wait_until
from zmqlines.sinks.redis_list import records_key


class Place:
    """Where a collector puts events, looked at from outside."""

    def __init__(self, *options: str) -> None:
        self.options = options

    def count(self) -> int:
        """How many events are there."""
        raise NotImplementedError

    def events(self) -> list[bytes]:
        raise NotImplementedError

    def messages(self) -> list[str]:
        return [strict_json(event)["message"] for event in self.events()]

    def wait_for(self, count: int, deadline_s: float = DEADLINE_S) -> None:
        wait_until(lambda: self.count() >= count, f"{count} events", deadline_s)

    def wait_for_more(self, count: int, of: list[str]) -> None:
        """Wait for at least one more, and so many in all; not if all have come."""
        self.wait_for(min(max(self.count() + 1, count), len(of)))


class InFile(Place):
    def __init__(self, path: Path) -> None:
        super().__init__("--output", str(path))
        self._path = path
        self._counted = 0  # lines, in so many bytes
        self._bytes = 0

    def count(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._bytes)
                more = file.read()
            self._counted += more.count(b"\n")
            self._bytes += len(more)
        return self._counted

    def events(self) -> list[bytes]:
        written = self._path.read_bytes()
        return written[: written.rfind(b"\n") + 1].splitlines()  # the last line may be half there


class InSqlite(Place):
    def __init__(self, path: Path) -> None:
        super().__init__("--sqlite", str(path))
        self._path = path

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """What the database says; nothing where it is not there yet."""
        with contextlib.suppress(sqlite3.OperationalError), self.open() as db:
            return db.execute(query).fetchall()
        return []

    def wait_until_made(self) -> None:
        last = "event_type"  # before that is there, the collector needs the database
        wait_until(lambda: self.ask(f"SELECT 1 FROM sqlite_master WHERE name = '{last}'"), "made")

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as db:
            db.execute("PRAGMA busy_timeout = 10000")
            yield db

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else can read or write meanwhile."""
        with self.open() as db:
            db.execute("BEGIN EXCLUSIVE")
            yield
            db.execute("ROLLBACK")

    def count(self) -> int:
        return int((self.ask("SELECT coalesce(max(id), 0) FROM event") or [(0,)])[0][0])

    def events(self) -> list[bytes]:
        return [text.encode() for (text,) in self.ask("SELECT event FROM event ORDER BY id")]

    def records(self) -> dict[bytes, int]:
        return dict(self.ask("SELECT id, record FROM shipper"))

    def wipe_records(self) -> int:
        """Returns how many there were."""
        with self.open() as db:
            return db.execute("DELETE FROM shipper").rowcount


class InRedis(Place):
    def __init__(self, url: str, key: str) -> None:
        super().__init__("--redis", url, "--key", key)
        self._key = key
        self._redis = redis.Redis.from_url(url)

    def count(self) -> int:
        return int(self._redis.llen(self._key))

    def events(self) -> list[bytes]:
        events: list[bytes] = self._redis.lrange(self._key, 0, -1)  # type: ignore[assignment]
        return events

    def records(self) -> int:
        """How many there are."""
        return len(self._redis.keys(f"zmqpull:{self._key}:*"))

    def wipe_records(self) -> int:
        """Returns how many there were. Redis forgets the script, too, as when it is restarted."""
        self._redis.script_flush()
        names = [records_key(self._key), f"{records_key(self._key)}:seen"]
        count = int(self._redis.zcard(names[1]))
        self._redis.delete(*names)
        return count


def options_of(places: list[Place]) -> list[str]:
    return [word for place in places for word in place.options]

"""What the collectors write to, and who takes events out of it."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.judging import Hand
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, wait_until

CALM_S = 90.0  # in which all must come to rest; a shipper's patience grows to 60 s


class Repeated(threading.Thread):
    """Takes a step again and again until it is ended; what goes wrong there is raised then."""

    def __init__(self, step: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._step = step
        self._ending = threading.Event()
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            while not self._ending.is_set():
                self._step()
        except Exception as error:
            self._error = error

    def end(self) -> None:
        """Let it end after the step that it is at; may be called again."""
        self._ending.set()
        self.join(DEADLINE_S)
        assert not self.is_alive()
        if self._error:
            raise self._error


class Store:
    """What the collectors write to, and those who take events out of it."""

    LEAD = 40_000  # lines of a source that may be under way; then it waits
    IS_SHARED = True  # a collector that is stopped does not keep the others from writing
    arguments: list[str]  # of the collectors

    def __init__(self) -> None:
        self.hands: list[Hand] = []

    def last(self, source: str) -> int:
        """The highest number of `source` that has arrived."""
        return max(hand.last.get(source, -1) for hand in self.hands)

    def wait_for(self, source: str, number: int, deadline_s: float = DEADLINE_S) -> None:
        """Wait until so high a number of `source` has arrived."""
        what = f"{source} comes to {number} from {self.last(source)}"
        wait_until(lambda: self.last(source) >= number, what, deadline_s)

    def pids(self) -> list[int]:
        """Processes that may be stopped for a while."""
        return []

    def drain(self) -> None:
        """Return when all that was written is in the hands."""
        raise NotImplementedError

    def close(self) -> None:
        """End everything; may be called again."""
        raise NotImplementedError


class Worker:
    """Takes events out of a Redis list with BLPOP, one by one, and connects anew by itself."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self.hand = Hand()
        self._key = key
        # A client that gave up waiting would not get what Redis had popped for it.
        self._client: Any = redis.Redis(
            host, port, socket_timeout=None, retry=Retry(NoBackoff(), retries=0)
        )
        self._popping = threading.Lock()
        self._may_pop = threading.Event()
        self._may_pop.set()
        self._thread = Repeated(self._pop)

    def _pop(self) -> None:
        self._may_pop.wait()
        with self._popping:
            try:
                popped = self._client.blpop(self._key, timeout=0.2)
            except redis.ConnectionError:
                popped = None
                time.sleep(0.05)
            if popped:
                self.hand.take(popped[1])

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Has it not pop anything meanwhile."""
        self._may_pop.clear()
        with self._popping:
            yield
        self._may_pop.set()

    def end(self) -> None:
        self._thread.end()
        self._client.close()


class RedisStore(Store):
    """A redis-server that keeps all it has said to have, and two workers."""

    LEAD = 800  # Redis syncs each pop
    KEY = "log"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._server = RedisServer(folder)
        self.arguments = ["--redis", self._server.url, "--key", self.KEY]
        self._workers: list[Worker] = []
        self._start()
        self._workers += [Worker(self._server.host, self._server.port, self.KEY) for _ in range(2)]
        self.hands = [worker.hand for worker in self._workers]

    def _start(self) -> None:
        self._server.start(appendfsync="always", deadline_s=CALM_S)

    def pids(self) -> list[int]:
        return [self._server.pid]

    def restart(self, number: signal.Signals, down_s: float) -> None:
        """End it with a signal, start it again after so long."""
        with contextlib.ExitStack() as stack:
            self._server.send_signal(signal.SIGCONT)
            for worker in self._workers:
                stack.enter_context(worker.resting())
            self._server.end(number)
            time.sleep(down_s)
            self._start()

    def drain(self) -> None:
        client = self._server.client
        wait_until(lambda: client.llen(self.KEY) == 0, "the list is empty", CALM_S)
        for worker in self._workers:
            worker.end()

    def close(self) -> None:
        self._server.kill()
        for worker in self._workers:
            worker.end()


class TableStore(Store):
    """An SQLite file, and who reads it while it grows."""

    IS_SHARED = False  # it may have been stopped in a transaction

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.arguments = ["--sqlite", str(path)]
        self.hands = [Hand()]
        self._path = path
        self._seen = 0  # id of the last row that was read
        self._reader = Repeated(self._read)

    def _read(self) -> None:
        if not self._read_rows():
            time.sleep(0.05)

    def _read_rows(self) -> int:
        """Read the next rows; returns how many."""
        if not self._path.exists():
            return 0
        with contextlib.closing(sqlite3.connect(self._path, timeout=DEADLINE_S)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'event'").fetchall():
                return 0
            select = "SELECT id, event FROM event WHERE id > ? ORDER BY id LIMIT 5000"
            rows = database.execute(select, (self._seen,)).fetchall()
        for self._seen, event in rows:
            self.hands[0].take(event.encode())
        return len(rows)

    def drain(self) -> None:
        self._reader.end()
        while self._read_rows():
            pass

    def close(self) -> None:
        self._reader.end()

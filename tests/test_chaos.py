"""Chaos: everything is killed, stopped and cut off at random, and no line is lost or repeated.

    2 pipes  ──▶ zmqpush.py --spool --ack ──▶            ┌▶ Redis ──▶ 2 workers (BLPOP)
                                             2 zmqpull.py┤
    rsyslogd ──▶ zmqpush.py --omprog … ─────▶  --ack     └▶ or one SQLite file

What is promised begins with the journal. So one must know what was journaled:

- A shipper journals what it has read from a pipe before it reads on. Of what was written to a
  process a prefix is journaled, and that is at least: all that it had read before it read again
  (the pipe tells how much is unread), what lies in its spool when it was killed, and all before a
  line that arrived. Those must arrive. What comes after them may have died in the pipe or in
  memory; if it arrives nevertheless, it must do so once, as everything.
- All that rsyslogd was given must arrive. rsyslog repeats the line at which a program was killed:
  the new program makes another event of it, with a `@pid` of its own. These are counted apart. An
  event, which is a number and a `@pid`, arrives once. (In transactions, rsyslog 8.2302 gives the
  same program the same message twice, once its predecessor was killed between two of them: there
  nobody could tell. So there are none here.)
- The events of each `@pid` come in the order of their numbers, in the hands of each worker.
- What Redis has popped is the worker's, but a reply may die with Redis: a pop is in the AOF
  before it is answered. Therefore workers rest, between two pops, while Redis is restarted.

The random choices are seeded; when exactly they strike is up to the machine. In `make test` chaos
lasts a minute for each store; `make chaos MINUTES=10` goes on for as long as one likes.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import zmqpull
from tests.support.collector import strict_json
from tests.support.net import free_endpoint, unread
from tests.support.programs import Shipper
from tests.support.rsyslog import TEMPLATE, Rsyslogd, install_program
from tests.support.waiting import DEADLINE_S, wait_until

SEED = int(os.environ.get("CHAOS_SEED") or 4)
MINUTES = float(os.environ.get("CHAOS_MINUTES") or 2)  # of chaos, half of them into each store
LINE_SIZE = 100  # bytes, with the line end
LONG_STOP_S = 12.5  # a shipper asks a silent collector after 5 s, and leaves it after 5 more
MORE_THAN_BUFFERS = 40_000  # lines, than libzmq and the kernel hold for a connection
CALM_S = 90.0  # in which all must come to rest; a shipper's patience grows to 60 s


# ---- what is written, and what arrives --------------------------------------------------------


def text_of(source: str, number: int) -> str:
    return f"{source} {number:08} ".ljust(LINE_SIZE - 1, ".")


def numbers_in(text: bytes, source: str) -> list[int]:
    """The numbers of `source` in events, whatever else is in them."""
    return list(map(int, re.findall(rb"%b (\d{8}) \." % source.encode(), text)))


class Arrival(NamedTuple):
    """An event."""

    source: str
    number: int
    pid: int

    @classmethod
    def of(cls, event: bytes) -> Arrival:
        """The one that an event's JSON tells of, whose text is checked."""
        members = strict_json(event)
        found = re.search(r"(\w+) (\d{8}) \.+$", members["message"])
        assert found, event
        arrival = cls(found[1], int(found[2]), members["@pid"])
        assert members["message"].endswith(text_of(arrival.source, arrival.number)), event
        return arrival


class Hand:
    """What somebody got, in order."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.last: dict[str, int] = {}  # highest number, by source

    def take(self, event: bytes) -> None:
        arrival = Arrival.of(event)
        self.arrivals.append(arrival)
        highest = self.last.get(arrival.source, -1)
        self.last[arrival.source] = max(arrival.number, highest)


@dataclasses.dataclass
class Life:
    """What a shipper's process was given: from the number `start` up to, not with, `stop`."""

    pid: int
    start: int
    stop: int
    journaled: int  # up to this number, at least
    _taken: int = 0  # lines that it had read when we looked last

    def unread(self) -> range:
        """What it has not read whole, as we know it."""
        return range(self.start + self._taken, self.stop)

    def observe(self, unread_bytes: int) -> None:
        """So much of what it was given it has not read yet: learn what is journaled."""
        taken = self.stop - self.start - -(-unread_bytes // LINE_SIZE)
        if taken > self._taken:  # it has read on
            self.journaled = max(self.journaled, self.start + self._taken)
            self._taken = taken

    def found(self, numbers: list[int]) -> None:
        """These are in a spool: learn what is journaled."""
        self.journaled = max([self.journaled, *(n + 1 for n in numbers if n < self.stop)])


@dataclasses.dataclass
class Verdict:
    """What came of it all."""

    arrived: int = 0
    lost: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    repeated: list[Arrival] = dataclasses.field(default_factory=list)
    disordered: list[Arrival] = dataclasses.field(default_factory=list)
    changed: list[Arrival] = dataclasses.field(default_factory=list)  # not of whom it was given to
    repeated_by_rsyslog: int = 0

    def __str__(self) -> str:
        counts = ", ".join(
            f"{len(found)} {what}" + f" (such as {found[:3]})" * bool(found)
            for what, found in (
                ("lost", self.lost),
                ("repeated", self.repeated),
                ("out of order", self.disordered),
                ("of another process", self.changed),
            )
        )
        return f"{self.arrived} arrived: {counts}; {self.repeated_by_rsyslog} repeated by rsyslog"

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.repeated or self.disordered or self.changed)


def judge(lives: dict[str, list[Life]], logged: dict[str, int], hands: Sequence[Hand]) -> Verdict:
    """What is wrong with what came to `hands`: of processes, and of what rsyslogds have logged."""
    verdict = Verdict(sum(len(hand.arrivals) for hand in hands))
    pids: dict[tuple[str, int], set[int]] = collections.defaultdict(set)
    seen: set[Arrival] = set()
    for hand in hands:
        last: dict[tuple[str, int], int] = {}  # by source and pid
        for arrival in hand.arrivals:
            if arrival in seen:
                verdict.repeated.append(arrival)
            elif arrival.number < last.get((arrival.source, arrival.pid), -1):
                verdict.disordered.append(arrival)
            else:
                last[arrival.source, arrival.pid] = arrival.number
            seen.add(arrival)
            pids[arrival.source, arrival.number].add(arrival.pid)
    for source, its_lives in lives.items():
        for life in its_lives:
            numbers = range(life.start, life.stop)
            came = [number for number in numbers if (source, number) in pids]
            due = max([life.journaled, *(number + 1 for number in came[-1:])])
            missing = set(range(life.start, due)).difference(came)
            verdict.lost += [(source, number) for number in sorted(missing)]
            for number in came:
                others = pids[source, number] - {life.pid}
                verdict.changed += [Arrival(source, number, pid) for pid in others]
    for source, count in logged.items():
        verdict.lost += [(source, n) for n in range(count) if (source, n) not in pids]
        verdict.repeated_by_rsyslog += sum(len(pids[source, n] or "x") - 1 for n in range(count))
    return verdict


def hand_of(*arrivals: Arrival) -> Hand:
    hand = Hand()
    for arrival in arrivals:
        event = {"message": text_of(arrival.source, arrival.number), "@pid": arrival.pid}
        hand.take(json.dumps(event).encode())
    return hand


def test_judge_finds_what_is_wrong() -> None:
    a = [Arrival("a", number, 1) for number in range(6)]
    b = [Arrival("b", number, 7) for number in range(3)]
    lives = {"a": [Life(1, 0, 10, 5)]}

    def verdict(*hands: Hand) -> Verdict:
        return judge(lives, {"b": 3}, hands)

    good = verdict(hand_of(*a[0::2], *b, Arrival("b", 1, 8)), hand_of(*a[1::2]))
    assert good.is_good
    assert (good.arrived, good.repeated_by_rsyslog) == (10, 1)
    assert verdict(hand_of(*a[:5], *b)).is_good
    assert verdict(hand_of(*a[:4], *b)).lost == [("a", 4)]
    assert verdict(hand_of(*a[:2], *a[3:], *b[:2])).lost == [("a", 2), ("b", 2)]
    assert verdict(hand_of(*a, *b), hand_of(a[1], b[2])).repeated == [a[1], b[2]]
    assert verdict(hand_of(*a, b[1], b[0], b[2])).disordered == [b[0]]
    other = Arrival("a", 2, 9)
    assert verdict(hand_of(*a, *b, other)).changed == [other]
    assert verdict(hand_of(*a[:2], other, *a[3:], *b)).changed == [other]


def test_what_was_read_before_is_journaled_when_it_reads_on() -> None:
    life = Life(1, 100, 100, 100)
    journaled = []
    for given, left in ((10, 1000), (10, 500), (10, 500), (20, 1450), (20, 0), (20, 0), (30, 1)):
        life.stop = 100 + given
        life.observe(left)
        journaled.append(life.journaled)
    assert journaled == [100, 100, 100, 100, 105, 105, 120]
    life.found([99, 124, 125, 130])
    assert life.journaled == 126


# ---- threads ----------------------------------------------------------------------------------


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


# ---- where events go --------------------------------------------------------------------------


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
        self._path = shutil.which("redis-server")
        if not self._path:
            pytest.skip("redis-server is not installed (Debian: redis-server)")
        folder.mkdir()
        self._folder = folder
        self.host, port = free_endpoint()[len("tcp://") :].split(":")
        self.port = int(port)
        self._client: Any = redis.Redis(self.host, self.port)
        self._process: subprocess.Popen[bytes] | None = None
        self.arguments = ["--redis", f"redis://{self.host}:{port}/0", "--key", self.KEY]
        self._start()
        self._workers = [Worker(self.host, self.port, self.KEY) for _ in range(2)]
        self.hands = [worker.hand for worker in self._workers]

    def _start(self) -> None:
        assert self._path
        self._process = subprocess.Popen(
            [
                *(self._path, "--bind", self.host, "--port", str(self.port)),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            ],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, "redis-server answers", CALM_S)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self._client.ping())
        return False

    def pids(self) -> list[int]:
        assert self._process
        return [self._process.pid]

    def restart(self, number: signal.Signals, down_s: float) -> None:
        """End it with a signal, start it again after so long."""
        assert self._process
        with contextlib.ExitStack() as stack:
            self._process.send_signal(signal.SIGCONT)
            for worker in self._workers:
                stack.enter_context(worker.resting())
            self._process.send_signal(number)
            self._process.wait(DEADLINE_S)
            time.sleep(down_s)
            self._start()

    def drain(self) -> None:
        wait_until(lambda: self._client.llen(self.KEY) == 0, "the list is empty", CALM_S)
        for worker in self._workers:
            worker.end()

    def close(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # it may be rewriting its AOF
            self._process.wait()
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


# ---- who is killed ----------------------------------------------------------------------------


class Puller:
    """A zmqpull.py that is started again and again, always at the same endpoint."""

    def __init__(self, folder: Path, name: str, arguments: list[str]) -> None:
        self.name = name
        self.endpoint = free_endpoint()
        self.process: Shipper | None = None
        self._arguments = ["--bind", self.endpoint, *arguments]
        self._said = folder / f"{name}.said"

    def start(self) -> None:
        """Start it, if it does not run."""
        if not self.process:
            with open(self._said, "ab") as said:
                self.process = Shipper(
                    *self._arguments,
                    program="zmqpull.py",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                )

    def runs(self) -> bool:
        """Whether it was not killed; it does not end by itself."""
        ended = self.process and self.process.process.poll() is not None
        assert not ended, self._said.read_text()
        return self.process is not None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it with a signal, at once or soon."""
        assert self.runs()
        assert self.process
        self.process.signal(number)
        self.process.signal(signal.SIGCONT)
        self.process.process.wait(CALM_S)
        self.close()

    def close(self) -> None:
        """Kill it, if it runs; may be called again."""
        if self.process:
            self.process.stop()
        self.process = None

    def end(self) -> None:
        """Let it write what it has, and end."""
        assert self.process
        self.process.signal(signal.SIGTERM)
        assert self.process.process.wait(DEADLINE_S) == 0


class Source:
    """Numbered lines, and the shippers that take them."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self._rng = random.Random(f"{seed} {name}")
        self._feeder: Repeated | None = None

    def next(self) -> int:
        """The number of the next line."""
        raise NotImplementedError

    def write(self, count: int) -> None:
        """Give the next lines to a shipper."""
        raise NotImplementedError

    def feed(self, store: Store, most: int, burst: int, lead: int) -> None:
        """Begin to write up to `most` lines at a time; now and then, up to `burst`.

        While `lead` are under way, it is one.
        """

        def write_some() -> None:
            time.sleep(self._rng.uniform(0, 0.1))
            highest = self._rng.choices([most, burst], [0.97, 0.03])[0]
            room = lead - (self.next() - store.last(self.name))
            self.write(max(1, min(self._rng.randint(1, highest), room)))

        self._feeder = Repeated(write_some)

    def stop_feeding(self) -> None:
        """Write no more."""
        if self._feeder:
            self._feeder.end()


class Piped(Source):
    """A zmqpush.py with a pipe, into which numbered lines are written, from one life to the next.

    With a `spool`, what was journaled is known (see above).
    """

    def __init__(
        self, folder: Path, name: str, seed: int, arguments: list[str], spool: Path | None
    ) -> None:
        super().__init__(name, seed)
        self.spool = spool
        self.lives: list[Life] = []
        self._arguments = [*arguments, *(["--spool", str(spool)] if spool else [])]
        self._said = folder / f"{name}.said"
        self._lock = threading.Lock()  # held by who writes, or has the process replaced
        self._start()

    def _start(self) -> None:
        with open(self._said, "ab") as said:
            self.process = Shipper(*self._arguments, stdout=subprocess.DEVNULL, stderr=said)
        self._unwritten = 0  # bytes that it would have got if it lived
        start = self.next()
        self.lives.append(Life(self.process.pid, start, start, start))

    def next(self) -> int:
        return self.lives[-1].stop if self.lives else 0

    def write(self, count: int) -> None:
        with self._lock:
            life = self.lives[-1]
            numbers = range(life.stop, life.stop + count)
            data = "".join(text_of(self.name, number) + "\n" for number in numbers).encode()
            life.stop = numbers.stop
            self._unwritten += len(data)
            with contextlib.suppress(BrokenPipeError):  # it was killed; it may have got some of it
                while data:
                    count = os.write(self._pipe(), data)
                    self._unwritten -= count
                    data = data[count:]
            self._observe()

    def _pipe(self) -> int:
        assert self.process.process.stdin
        return self.process.process.stdin.fileno()

    def _observe(self) -> None:
        self.lives[-1].observe(unread(self._pipe()) + self._unwritten)

    def interrupt(self) -> None:
        """End it with SIGINT, and start the next one; all that was written is journaled then."""
        self.process.signal(signal.SIGCONT)  # or who writes now would do so for ever
        wait_until(self._has_begun, f"{self.name} has begun", CALM_S)
        with self._lock:
            self.process.signal(signal.SIGINT)
            assert self.process.process.wait(CALM_S) == 0, self._said.read_text()
            self._bury()
            self.lives[-1].journaled = self.next()
            self._start()

    def _has_begun(self) -> bool:
        """Whether it has come so far that a signal is for its own code, not for Python."""
        assert self.spool
        return any(self.spool.glob(f"*-{self.process.pid}.spool"))

    def kill(self) -> None:
        """Kill it with -9, and start the next one."""
        assert self.process.process.poll() is None, self._said.read_text()
        self.process.signal(signal.SIGKILL)  # at any moment, while we may be writing
        with self._lock:
            self._bury()
            self._start()

    def _bury(self) -> None:
        self.process.process.wait()
        self._observe()
        self.process.stop()
        if self.spool and self.spool.exists():
            self.lives[-1].found(numbers_in(b"\n".join(texts_in(self.spool)), self.name))

    def finish(self, deadline_s: float = CALM_S) -> None:
        """Write no more; return when it has delivered everything and ended."""
        self.stop_feeding()
        assert self.process.finish(deadline_s=deadline_s).status == 0
        self.lives[-1].journaled = self.next()

    def kill_at_last(self) -> None:
        """Write no more, kill it with -9."""
        self.process.signal(signal.SIGKILL)
        self.stop_feeding()
        self._bury()

    def close(self) -> None:
        """Kill it; may be called again."""
        self.process.signal(signal.SIGKILL)
        self.stop_feeding()
        self.process.stop()


def texts_in(spool: Path) -> list[bytes]:
    """What dead processes have left in their files, a chunk each; seen in a copy."""
    texts: list[bytes] = []
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(spool, Path(scratch, "copy"))
        for path in sorted(copy.glob("*.spool")):
            with contextlib.closing(sqlite3.connect(path)) as database:
                if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'chunk'").fetchall():
                    rows = database.execute("SELECT text FROM chunk ORDER BY number")
                    texts += [text for (text,) in rows]
    return texts


class Logged(Source):
    """A rsyslogd that starts zmqpush.py programs as it sees fit, and asks for confirmation.

    It starts one in place of one that was killed when it has something to log.
    """

    CONFIGURATION = """\
main_queue(queue.type="LinkedList" queue.size="200000" queue.timeoutEnqueue="600000")
module(load="omprog")
if $programname == "unit" then
  action(type="omprog" name="ship" template="{template}" output="{said}"
         binary="{program} {arguments}" confirmMessages="on"
         queue.type="LinkedList" queue.size="200000" queue.timeoutEnqueue="600000"
         queue.workerThreads="2" queue.workerThreadMinimumMessages="100"
         action.resumeRetryCount="-1" action.resumeInterval="1")
"""

    def __init__(self, folder: Path, seed: int, arguments: list[str], spool: Path) -> None:
        super().__init__("logged", seed)
        self.count = 0  # messages that were logged
        self.spool = spool
        place = folder / "rsyslogd"
        place.mkdir()
        configuration = self.CONFIGURATION.format(
            template=TEMPLATE,
            said=folder / f"{self.name}.said",
            program=install_program(place),
            arguments=" ".join([*arguments, "--spool", str(spool), "--omprog"]),
        )
        self.rsyslogd = Rsyslogd(place, configuration)
        self.rsyslogd.start()

    def next(self) -> int:
        return self.count

    def write(self, count: int) -> None:
        numbers = range(self.count, self.count + count)
        texts = [text_of(self.name, number) for number in numbers]
        self.rsyslogd.log(*(f"<13>unit: {text}".encode() for text in texts))
        self.count = numbers.stop

    def finish(self, store: Store) -> None:
        """Log no more, end rsyslogd when all has arrived, or nothing comes any longer."""
        self.stop_feeding()
        with contextlib.suppress(AssertionError):
            store.wait_for(self.name, self.count - 1, CALM_S)
        self.rsyslogd.terminate()
        self.rsyslogd.wait_for_programs(CALM_S)

    def close(self) -> None:
        """Kill everything; may be called again."""
        self.rsyslogd.close()
        with contextlib.suppress(OSError):  # rsyslogd is gone
            self.stop_feeding()


class Proxy:
    """A TCP relay to `target`, on a thread of its own, that can be slow, silent, or cut."""

    def __init__(self, target: str) -> None:
        self.endpoint = free_endpoint()
        self.delay_s = 0.0
        self._target = self._address(target)
        self._writers: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()  # of these, what swallows everything
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, *self._address(self.endpoint))
        )
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @staticmethod
    def _address(endpoint: str) -> tuple[str, int]:
        host, port = endpoint[len("tcp://") :].split(":")
        return host, int(port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = {writer}
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
            writers.add(target_writer)
            self._writers |= writers
            there = asyncio.ensure_future(self._relay(reader, target_writer))
            back = asyncio.ensure_future(self._relay(target_reader, writer))
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            there.cancel()
            back.cancel()
        except OSError:
            pass  # the target is not there
        finally:
            self._writers -= writers
            self._silent -= writers
            reset(writers)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(64 * 1024):
                await asyncio.sleep(self.delay_s)
                if writer not in self._silent:
                    writer.write(data)
                    await writer.drain()

    def slow_down(self, delay_s: float) -> None:
        """Keep everything back for so long; 0: no more."""
        self.delay_s = delay_s

    def fall_silent(self) -> None:
        """Swallow everything, on the connections that there are."""
        self._loop.call_soon_threadsafe(lambda: self._silent.update(self._writers))

    def cut(self) -> None:
        """Reset all connections; new ones are relayed."""
        self._loop.call_soon_threadsafe(lambda: reset(self._writers))

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(DEADLINE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reset(writers: set[asyncio.StreamWriter]) -> None:
    """Close connections at once, with RST (socket(7), SO_LINGER)."""
    for writer in writers:
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


# ---- what is done to them ---------------------------------------------------------------------


class Chaos:
    """The whole chain, and all that can happen to it."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        folder: Path,
        store: Store,
        seed: int,
    ) -> None:
        """Start everything; it ends with `stack`."""
        print(f"CHAOS_SEED={seed}")
        self.done: collections.Counter[str] = collections.Counter()
        self._seed = seed
        self._folder = folder
        self._store = store
        self._rng = random.Random(seed)
        self._began_at = time.monotonic()
        self._later: list[tuple[float, Callable[[], None]]] = []  # when, what
        self._asleep: Puller | None = None  # one that is left alone until it is woken
        self._pullers = [Puller(folder, f"pull{n}", [*store.arguments, "--ack"]) for n in range(2)]
        for puller in self._pullers:
            stack.callback(puller.close)
            puller.start()
        self._proxies = []
        for puller in self._pullers:
            self._proxies.append(Proxy(puller.endpoint))
            stack.callback(self._proxies[-1].close)
        self._endpoints = [puller.endpoint for puller in self._pullers]
        through_proxies = [proxy.endpoint for proxy in self._proxies]
        self._pipes: list[Piped] = []
        for name, endpoints, options in (
            ("direct", self._endpoints, []),
            ("relayed", through_proxies, ["--batch", "10"]),
        ):
            arguments = [*self._shipping(endpoints), *options]
            self._pipes.append(Piped(folder, name, seed, arguments, folder / f"spool-{name}"))
            stack.callback(self._pipes[-1].close)
        arguments = self._shipping(self._endpoints)
        self._logged = Logged(folder, seed, arguments, folder / "spool-logged")
        stack.callback(self._logged.close)
        self._sources: list[Piped | Logged] = [*self._pipes, self._logged]
        for source in self._pipes:
            source.feed(store, most=30, burst=20_000, lead=store.LEAD)
        self._logged.feed(store, most=30, burst=300, lead=store.LEAD)

    @staticmethod
    def _shipping(endpoints: list[str]) -> list[str]:
        return [*itertools.chain(*(("--connect", endpoint) for endpoint in endpoints)), "--ack"]

    def _did(self, what: str, whom: str) -> None:
        self.done[what] += 1
        print(f"{time.monotonic() - self._began_at:7.2f} s: {what}: {whom}")

    def _in(self, least_s: float, most_s: float, action: Callable[[], None]) -> None:
        """Have `action` done in a while."""
        when = time.monotonic() + self._rng.uniform(least_s, most_s)
        self._later.append((when, action))

    def _one_of(self, those: list[Any]) -> list[Any]:
        """One of them, if there are any."""
        return self._rng.sample(those, min(1, len(those)))

    # the things that happen

    def interrupt_a_shipper(self) -> None:
        pipe = self._rng.choice(self._pipes)
        self._did("shippers interrupted", pipe.name)
        pipe.interrupt()

    def kill_a_shipper(self) -> None:
        pipe = self._rng.choice(self._pipes)
        self._kill(pipe)
        if self._rng.random() < 0.3:  # the next one too, which begins, or is at what this one left
            self._in(0, 1, functools.partial(self._kill, pipe))

    def _kill(self, pipe: Piped) -> None:
        self._did("shippers killed", pipe.name)
        pipe.kill()

    def kill_a_program(self) -> None:
        """Of rsyslogd, which will start the next one."""
        for pid in self._one_of(sorted(self._logged.rsyslogd.programs())):
            self._did("programs of rsyslogd killed", str(pid))
            signal_to(pid, signal.SIGKILL)

    def kill_a_collector(self) -> None:
        self._end_a_collector("collectors killed", signal.SIGKILL)

    def end_a_collector(self) -> None:
        """As a service manager does."""
        self._end_a_collector("collectors ended", signal.SIGTERM)

    def _end_a_collector(self, what: str, number: signal.Signals) -> None:
        awake = [p for p in self._pullers if p.runs() and p is not self._asleep]
        for puller in self._one_of(awake):
            self._did(what, puller.name)
            puller.kill(number)
            # A shipper waits for it to come back, or in vain.
            self._in(*self._rng.choice([(0, 1), (0, 1), (5, 9)]), puller.start)

    def stop_one(self) -> None:
        """Stop any process for a moment."""
        pids = {puller.process.pid: puller.name for puller in self._pullers if puller.process}
        pids.update((pipe.process.pid, pipe.name) for pipe in self._pipes)
        pids.update((pid, self._logged.name) for pid in self._logged.rsyslogd.programs())
        pids.update((pid, "redis") for pid in self._store.pids())
        if self._asleep and self._asleep.process:
            del pids[self._asleep.process.pid]
        pid = self._rng.choice(sorted(pids))
        self._did("stopped and continued", pids[pid])
        signal_to(pid, signal.SIGSTOP)
        self._in(0.1, 2, functools.partial(signal_to, pid, signal.SIGCONT))

    def cut_a_connection(self) -> None:
        self._did("connections reset", "")
        self._rng.choice(self._proxies).cut()

    def delay_a_connection(self) -> None:
        proxy = self._rng.choice(self._proxies)
        delay_s = self._rng.uniform(0.01, 0.3)
        self._did("connections slowed down", f"by {delay_s:.3f} s")
        proxy.slow_down(delay_s)
        self._in(0.5, 2, functools.partial(proxy.slow_down, 0.0))

    def silence_a_connection(self) -> None:
        """Then the stream has a hole: nobody can go on with it, and at last it is reset."""
        self._did("connections silent, then reset", "")
        proxy = self._rng.choice(self._proxies)
        proxy.fall_silent()
        self._in(0.5, 4, proxy.cut)

    def restart_redis(self) -> None:
        if isinstance(self._store, RedisStore):
            number = self._rng.choice([signal.SIGTERM, signal.SIGKILL])
            self._did("redis restarted", number.name)
            self._store.restart(number, self._rng.uniform(0, 1))

    # how it goes on

    def go_on(self, for_s: float) -> None:
        """Let things happen, and now and then one for long."""
        ends_at = self._began_at + for_s
        for last_for_long in itertools.cycle([self.stop_long, self.silence_long]):
            left_s = ends_at - time.monotonic()
            self.run(min(left_s, 15))
            if left_s < 15 + LONG_STOP_S:
                break
            last_for_long()

    def run(self, for_s: float) -> None:
        """Let one thing happen after the other."""
        things = [
            self.interrupt_a_shipper,
            self.end_a_collector,
            self.kill_a_shipper,
            self.kill_a_program,
            self.kill_a_collector,
            self.stop_one,
            self.cut_a_connection,
            self.delay_a_connection,
            self.silence_a_connection,
            self.restart_redis,
        ]
        ends_at = time.monotonic() + for_s
        while time.monotonic() < ends_at:
            # All of them, again and again: so nothing is left out in a short time.
            for thing in self._rng.sample(things, len(things)):
                time.sleep(self._rng.uniform(0, 0.5))
                self._do_later_things(time.monotonic())
                if time.monotonic() < ends_at:
                    thing()

    def _do_later_things(self, until: float) -> None:
        due = sorted((when, n) for n, (when, _) in enumerate(self._later) if when <= until)
        actions = [self._later[n][1] for _, n in due]
        self._later = [(when, action) for when, action in self._later if when > until]
        for action in actions:
            action()

    def calm_down(self) -> None:
        """End all that goes on, but for the long stop; return when all go on."""
        self._do_later_things(float("inf"))
        self._wait_until_all_go_on()
        assert all(puller.runs() for puller in self._pullers)

    def _wait_until_all_go_on(self) -> None:
        for name, next_number in {s.name: s.next() for s in self._sources}.items():
            self._store.wait_for(name, next_number, CALM_S)

    def stop_long(self) -> None:
        """Stop a collector until its shippers have left it, then wake it."""
        self.calm_down()
        used = [(connections_to(puller.endpoint), puller) for puller in self._pullers]
        count, puller = max(used, key=lambda pair: pair[0])
        assert count, "nobody is connected"
        assert puller.process
        self._did("collectors stopped for long", f"{puller.name}, with {count} connections")
        self._asleep = puller
        puller.process.signal(signal.SIGSTOP)
        began_at = time.monotonic()
        self.run(1)
        self._do_later_things(float("inf"))
        if self._store.IS_SHARED:
            self._wait_until_all_go_on()  # with the other collector
        time.sleep(max(0.0, began_at + LONG_STOP_S - time.monotonic()))
        self._asleep = None
        puller.process.signal(signal.SIGCONT)

    def silence_long(self) -> None:
        """Swallow everything on a connection, until its shipper has left it."""
        self.calm_down()
        used = [(connections_to(proxy.endpoint), n) for n, proxy in enumerate(self._proxies)]
        count, n = max(used)
        assert count, "nobody is connected"
        self._did("connections silent for long", self._pullers[n].name)
        self._proxies[n].fall_silent()
        self._wait_until_all_go_on()

    def end(self) -> Verdict:
        """Let it calm down, take what is left in the spools, and see what has come."""
        self.calm_down()
        self._pipes[0].finish()
        self._pipes[1].kill_at_last()
        self._logged.finish(self._store)
        for source in self._sources:
            assert source.spool
            drain(source.spool, self._shipping(self._endpoints))
        self._store.drain()
        lives = {pipe.name: pipe.lives for pipe in self._pipes}
        verdict = judge(lives, {self._logged.name: self._logged.count}, self._store.hands)
        things = ", ".join(f"{count} {what}" for what, count in sorted(self.done.items()))
        took_s = time.monotonic() - self._began_at
        print(f"seed {self._seed}, {took_s:.0f} s, {things}: {verdict}")
        for said in sorted(self._folder.glob("*.said")):
            assert "Traceback" not in said.read_text(), said.read_text()
        return verdict


def signal_to(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def connections_to(endpoint: str) -> int:
    """How many somebody has made there and the collector has open (proc(5), /proc/net/tcp).

    While it has, there may be something to read, even where the other side is gone.
    """
    host, port = endpoint[len("tcp://") :].split(":")
    address = int.from_bytes(socket.inet_aton(host), sys.byteorder)
    local = f"{address:08X}:{int(port):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    established, close_wait = "01", "08"
    return sum(
        fields[1] == local and fields[3] in (established, close_wait) for fields in lines[1:]
    )


def drain(spool: Path, arguments: list[str]) -> None:
    """Send what is left in `spool`; nothing is left then."""
    nothing = subprocess.DEVNULL
    shipper = Shipper(*arguments, "--spool", str(spool), stdin=nothing, stdout=nothing)
    try:
        result = shipper.finish(deadline_s=CALM_S)
    finally:
        shipper.stop()
    assert result.status == 0, result.stderr
    assert os.listdir(spool) == []


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """What is put on it ends with the test."""
    with contextlib.ExitStack() as stack:
        yield stack


@contextlib.contextmanager
def chaos_into(kind: str, folder: Path, seed: int) -> Iterator[Chaos]:
    """The chain into "redis" or "sqlite"."""
    with contextlib.ExitStack() as stack:
        store = RedisStore(folder / "redis") if kind == "redis" else TableStore(folder / "log.db")
        stack.callback(store.close)
        yield Chaos(stack, folder, store, seed)


@pytest.mark.long
@pytest.mark.timeout(30 * MINUTES + 600)
@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_everything_comes_once_whatever_happens(kind: str, tmp_path: Path) -> None:
    with chaos_into(kind, tmp_path, SEED) as chaos:
        chaos.go_on(30 * MINUTES)
        verdict = chaos.end()
    assert verdict.is_good, str(verdict)


# ---- what chaos has found -----------------------------------------------------------------------


def test_failed_attempts_at_redis_leave_no_connections_open(tmp_path: Path) -> None:
    """redis-py makes 100 at most. Its pipeline kept the one on which it had looked for a script."""
    with contextlib.closing(RedisStore(tmp_path / "redis")) as store:
        admin = redis.Redis(store.host, store.port)

        async def fail_then_keep() -> dict[bytes, int]:
            url = f"redis://{store.host}:{store.port}/0?max_connections=1"
            sink = zmqpull.RedisList(url, "books", 0)
            offer = zmqpull.Offer(b"peer", b"shipper".ljust(16), 1, 1, [b"{}"])
            admin.acl_setuser("default", enabled=True, commands=["-script"])
            with pytest.raises(zmqpull.Trouble, match="no permissions"):
                await sink.keep([offer])
            admin.acl_setuser("default", enabled=True, commands=["+script"])
            records = await sink.keep([offer])
            await sink._client.aclose()
            return records

        assert asyncio.run(fail_then_keep()) == {b"shipper".ljust(16): 1}
        admin.close()


# ---- the same kills, with and without acknowledgement -----------------------------------------


MODES = {"plain": [], "spool": ["--spool"], "ack": ["--ack"], "spool-ack": ["--spool", "--ack"]}


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.soak)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("killed", ["collector", "shipper"])
@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_is_lost_with_what_is_killed(
    killed: str, mode: str, kills: int, tmp_path: Path
) -> None:
    """For the table in README.md. It is printed: what is lost and not promised varies."""
    with_spool, with_ack = "--spool" in MODES[mode], "--ack" in MODES[mode]
    ack = ["--ack"] if with_ack else []
    with contextlib.ExitStack() as stack:
        store = TableStore(tmp_path / "log.db")
        stack.callback(store.close)
        puller = Puller(tmp_path, "pull", [*store.arguments, *ack])
        stack.callback(puller.close)
        puller.start()
        spool = tmp_path / "spool" if with_spool else None
        pipe = Piped(tmp_path, "pipe", SEED, ["--connect", puller.endpoint, *ack], spool)
        stack.callback(pipe.close)
        pipe.feed(store, most=1000, burst=1000, lead=store.LEAD)
        marks = list(kill_again_and_again(killed, kills, store, puller, pipe))
        pipe.finish()
        wait_until(
            lambda: not connections_to(puller.endpoint), "the collector has read all", CALM_S
        )
        puller.end()
        store.drain()
    verdict = judge({pipe.name: pipe.lives}, {}, store.hands)
    came = {arrival.number for arrival in store.hands[0].arrivals}
    unread = {number for life in pipe.lives for number in life.unread()} - came
    lost = [
        len(set(range(start, stop)) - came - unread)
        for start, stop in zip([0, *marks], [*marks[:-1], pipe.next()])
    ]
    print(
        f"{killed} killed {kills} times, {' '.join(MODES[mode]) or 'plain'}: {pipe.next()} lines; "
        f"lost {sum(lost)} (collector keeps up: {sum(lost[0::2])}, is behind: {sum(lost[1::2])})"
        + f", {len(verdict.lost)} of them journaled"
        * with_spool
        + f", and {len(unread)} that nobody had read from the pipe; "
        f"{len(verdict.repeated)} repeated"
    )
    if with_ack:
        assert not verdict.repeated
    if with_spool and killed == "shipper":
        assert not verdict.lost
    if with_ack and killed == "collector":
        assert not sum(lost)
        assert not unread


def kill_again_and_again(
    killed: str, times: int, store: Store, puller: Puller, pipe: Piped
) -> Iterator[int]:
    """Kill the "collector" or the "shipper"; the number of the next line after each kill.

    At each second one the collector is behind: it does not take what is written.
    """
    rng = random.Random(SEED)
    for step in range(times):
        store.wait_for(pipe.name, pipe.next(), CALM_S)
        time.sleep(rng.uniform(0, 0.2))
        assert puller.process
        if step % 2:
            puller.process.signal(signal.SIGSTOP)
            pipe.write(MORE_THAN_BUFFERS)
        if killed == "collector":
            puller.kill()
            puller.start()
        else:
            pipe.kill()
            puller.process.signal(signal.SIGCONT)
        yield pipe.next()

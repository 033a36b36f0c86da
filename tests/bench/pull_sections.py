"""What the bench measures of zmqpull.py: beside rsyslog and a bare loop, `--ack`, the whole chain.

Collectors are all sent to by the C program, which is faster than any of them: it reads a file, and
is itself held back by whoever collects. What they have at the end is counted in every run.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Callable

import redis

from tests.bench import report
from tests.bench.inputs import Input
from tests.bench.measure import (
    LOOK_EVERY_S,
    PATIENCE_S,
    BenchError,
    Child,
    cpu_ns,
    interleave,
    median,
    settle,
)
from tests.bench.peers import (
    BATCH,
    BENCH,
    ZMQPUSH,
    Receipt,
    Sink,
    StdinPeer,
    cat,
    explained_by,
    find_rsyslogd,
    nobody_listens,
)
from tests.bench.report import Row, Section, at_least
from tests.bench.sections import QUIET_S, SETTLE_AT_MOST_S, Bench, write_paced
from tests.bench.spool_sections import disk_speed

ZMQPULL = (sys.executable, str(BENCH.parent.parent / "zmqpull.py"), "--quiet")
ZMQPUSH_QUIET = (sys.executable, str(ZMQPUSH), "--quiet")
#: What a section's rows are about, in the heading of the table.
OURS = "zmqpull"
KEY = "bench"
FIRST_LINE = b"the first line\n"
#: How often a file is looked at whose size says when somebody has done.
LOOK_AT_FILE_EVERY_S = 0.005

ARRAYS_A_SECOND = 500_000
OF_BARE = 0.8
OF_PLAIN = 0.8
CHAIN_RATE = 10_000
CHAIN_S = 2.0
CHAIN_PUSH_PERCENT = 5.0
CHAIN_PULL_PERCENT = 10.0
#: The part of an input that the pairs of --ack are given.
ACK_SHARE = 0.3


# ---- where events go ------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where zmqpull.py puts events.

    Attributes:
        options: what it is told.
        count: how many are there.
        server: the process that keeps them, if there is one.
    """

    options: tuple[str, ...]
    count: Callable[[], int]
    server: Child | None = None

    def server_cpu_ns(self) -> int:
        """CPU time of the server so far; 0 where there is none."""
        return cpu_ns(self.server.pid) if self.server else 0


OpenPlace = Callable[[Path], contextlib.AbstractContextManager[Place]]


@contextlib.contextmanager
def a_file(folder: Path) -> Iterator[Place]:
    """A file."""
    path = folder / "collected"
    yield Place(("--output", str(path)), partial(lines_in, path))


def lines_in(path: Path) -> int:
    """How many lines a file has; 0 where there is none."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(partial(file.read, 1 << 20), b""))


@contextlib.contextmanager
def a_database(folder: Path) -> Iterator[Place]:
    """An SQLite database."""
    path = folder / "collected.db"

    def count() -> int:
        with contextlib.closing(sqlite3.connect(path)) as database:
            return int(database.execute("SELECT count(*) FROM event").fetchone()[0])

    yield Place(("--sqlite", str(path)), count)


@contextlib.contextmanager
def a_redis_list(folder: Path) -> Iterator[Place]:
    """A list in a redis-server of its own, on TCP, that writes nothing to the disk."""
    with nobody_listens() as endpoint:
        host, port = address_of(endpoint)
        command = [find_redis_server(), "--bind", host, "--port", str(port), "--dir", str(folder)]
        command += ["--appendonly", "no", "--save", ""]
        with Child("redis-server", command, folder) as server:
            wait_until_listening(server, endpoint)
            client: Any = redis.Redis(host, port)
            with contextlib.closing(client):
                options = ("--redis", f"redis://{host}:{port}/0", "--key", KEY)
                yield Place(options, lambda: int(client.llen(KEY)), server)


def find_redis_server() -> str:
    """The path of redis-server.

    Raises:
        BenchError: there is none.
    """
    found = shutil.which("redis-server")
    if not found:
        raise BenchError("no redis-server (Debian: redis-server)")
    return found


def address_of(endpoint: str) -> tuple[str, int]:
    """Host and port of a TCP endpoint."""
    host, _, port = endpoint[len("tcp://") :].rpartition(":")
    return host, int(port)


def wait_until_listening(child: Child, endpoint: str) -> None:
    """Wait until a process has bound an endpoint that was nobody's.

    Raises:
        BenchError: it has not, or it has ended.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(address_of(endpoint)) == 0:
                return
        if time.monotonic() > deadline or child.has_ended():
            raise BenchError(f"{child.name} does not listen: {child.said()}")
        time.sleep(LOOK_EVERY_S)


# ---- who collects ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What a collector is sent: the lines of a file, as events or in arrays, in so many messages.

    The lines are those that need no escaping, so that the size of an event can be told.
    """

    source: Input
    arrays: bool
    messages: int

    def size_of_lines(self, pid: int) -> int:
        """The size of a file in which each message of the C program `pid` is a line."""
        around = f'{{"message":"","type":"syslog","@pid":{pid}}}'
        brackets = 2 * self.messages if self.arrays else 0  # a comma is as long as a newline
        return self.source.path.stat().st_size + self.source.lines * len(around) + brackets


@dataclass(frozen=True)
class Collected:
    """How somebody collected."""

    rate: float  # events a second, from the start of the sender to the last event in its place
    cpu_us: float  # CPU of the collector an event, without its start
    server_cpu_us: float = 0.0  # of a server behind it


@dataclass(frozen=True)
class Collector(ABC):
    """A program that collects.

    Attributes:
        name: as the report calls it.
        share: the part of the lines that takes it a second or two.
    """

    name: str
    share: float = 1.0

    @abstractmethod
    def collect(self, bench: Bench, load: Load) -> Collected:
        """Run it, and send it a load."""


@dataclass(frozen=True)
class Zmqpull(Collector):
    """zmqpull.py; without a place, into nothing. It ends when it has all."""

    place: OpenPlace | None = None

    def collect(self, bench: Bench, load: Load) -> Collected:
        lines, server_ns = load.source.lines, 0
        with working_folder(bench) as folder, contextlib.ExitStack() as stack:
            place = stack.enter_context(self.place(folder)) if self.place else None
            endpoint = stack.enter_context(nobody_listens())
            command = [*ZMQPULL, "--bind", endpoint, "-n", str(lines)]
            command += place.options if place else ()
            child = stack.enter_context(Child(OURS, command, folder))
            wait_until_listening(child, endpoint)
            start_ns, before_ns = cpu_ns(child.pid), place.server_cpu_ns() if place else 0
            with explained_by(child), send(bench, load, endpoint) as sender:
                child.wait()
            if place:
                server_ns = place.server_cpu_ns() - before_ns
                must_be(f"{self.name}: events", place.count(), lines)
        return Collected(
            rate=lines / (child.ended_ns - sender.started_ns) * 1e9,
            cpu_us=(child.cpu_s * 1e9 - start_ns) / lines / 1e3,
            server_cpu_us=server_ns / lines / 1e3,
        )


@dataclass(frozen=True)
class Bare(Collector):
    """The loop that does nothing else. It ends when it has all."""

    def collect(self, bench: Bench, load: Load) -> Collected:
        with working_folder(bench) as folder, nobody_listens() as endpoint:
            path = folder / "collected"
            command = [sys.executable, str(BENCH / "pull_bare.py"), endpoint, str(path)]
            with Child("bare loop", [*command, str(load.messages)], folder) as child:
                wait_until_listening(child, endpoint)
                start_ns = cpu_ns(child.pid)
                with explained_by(child), send(bench, load, endpoint) as sender:
                    child.wait()
            must_be(f"{self.name}: bytes", path.stat().st_size, load.size_of_lines(sender.pid))
        return Collected(
            rate=load.source.lines / (child.ended_ns - sender.started_ns) * 1e9,
            cpu_us=(child.cpu_s * 1e9 - start_ns) / load.source.lines / 1e3,
        )


@dataclass(frozen=True)
class Imczmq(Collector):
    """rsyslogd, pulling with its own input module (imczmq) and writing a file.

    It does not end by itself: the size of the file says when it has all. Stopped in an orderly
    manner this module crashes (8.2302), so it is killed.
    """

    def collect(self, bench: Bench, load: Load) -> Collected:
        with working_folder(bench) as folder, nobody_listens() as endpoint:
            path, configuration = folder / "collected", folder / "rsyslog.conf"
            configuration.write_text(self.configuration(folder, endpoint, path))
            command = [find_rsyslogd(), "-n", "-f", str(configuration), "-iNONE"]
            with Child("rsyslogd", command, folder) as child, explained_by(child):
                wait_until_listening(child, endpoint)
                start_ns = cpu_ns(child.pid)
                with send(bench, load, endpoint) as sender:
                    ended_ns = wait_for_size(path, load.size_of_lines(sender.pid))
        return Collected(
            rate=load.source.lines / (ended_ns - sender.started_ns) * 1e9,
            cpu_us=(child.cpu_s * 1e9 - start_ns) / load.source.lines / 1e3,
        )

    def configuration(self, folder: Path, endpoint: str, path: Path) -> str:
        """Each message as it is, a line of the file; an array fits into a message."""

        def quoted(text: object) -> str:
            return json.dumps(str(text))  # rsyslog's strings have the escapes that are needed here

        return f"""
global(workDirectory={quoted(folder)} maxMessageSize="256k")
module(load="imczmq")
template(name="whole" type="string" string="%rawmsg%\\n")
ruleset(name="write") {{ action(type="omfile" file={quoted(path)} template="whole") }}
input(type="imczmq" endpoints={quoted("@" + endpoint)} sockType="PULL" ruleset="write")
"""


def wait_for_size(path: Path, size: int) -> int:
    """Wait until a file has that size; returns when it was seen to, in nanoseconds.

    Raises:
        BenchError: it does not get it.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists() or path.stat().st_size < size:
        if time.monotonic() > deadline:
            raise BenchError(f"{path}: {path.exists() and path.stat().st_size} of {size} bytes")
        time.sleep(LOOK_AT_FILE_EVERY_S)
    ended_ns = time.monotonic_ns()
    must_be(f"{path}: bytes", path.stat().st_size, size)
    return ended_ns


def must_be(what: str, found: int, due: int) -> None:
    """Raise BenchError where a count is not what it must be."""
    if found != due:
        raise BenchError(f"{what}: {found} instead of {due}")


@contextlib.contextmanager
def working_folder(bench: Bench) -> Iterator[Path]:
    """A folder beside the inputs, for one run."""
    with tempfile.TemporaryDirectory(dir=bench.tools.folder) as name:
        yield Path(name)


@contextlib.contextmanager
def send(bench: Bench, load: Load, endpoint: str) -> Iterator[Child]:
    """Run the C program on a file; when the context is left it has delivered all and ended."""
    command = [bench.tools.by_hand, endpoint]
    command += ["--arrays", str(BATCH)] if load.arrays else []
    with (
        FileIO(load.source.path) as file,
        Child("sender", command, bench.tools.folder, stdin=file.fileno()) as sender,
    ):
        yield sender
        sender.wait()


# ---- throughput -----------------------------------------------------------------------------

NOTHING = Zmqpull("into nothing", share=0.5)
FILE = Zmqpull("into a file", place=a_file)
REDIS = Zmqpull("into Redis", share=0.15, place=a_redis_list)
SQLITE = Zmqpull("into SQLite", share=0.1, place=a_database)
BARE = Bare("bare pyzmq loop")
IMCZMQ = Imczmq("rsyslog imczmq", share=0.15)
COLLECTORS = (NOTHING, FILE, REDIS, SQLITE, BARE, IMCZMQ)
SENDER = "the sender alone"


def throughput(bench: Bench, arrays: bool) -> Section:
    """As fast as collectors take single events, or arrays."""
    loads = {collector: load_of(bench, collector.share, arrays) for collector in COLLECTORS}
    jobs: dict[str, Callable[[], Collected]] = {
        collector.name: partial(collector.collect, bench, load) for collector, load in loads.items()
    }
    jobs[SENDER] = partial(send_only, bench, loads[FILE])
    title = "arrays" if arrays else "single events"
    taken = interleave(f"zmqpull, {title}", bench.runs, jobs)
    rates = {name: median(run.rate for run in runs) for name, runs in taken.items()}
    rows = [
        at_least(what, rates[what], peer, rates[peer], times, report.rate)
        for what, peer, times in (
            (FILE.name, BARE.name, None if arrays else OF_BARE),
            (FILE.name, IMCZMQ.name, None),
            (NOTHING.name, BARE.name, None),
            (REDIS.name, FILE.name, None),
            (SQLITE.name, FILE.name, None),
        )
    ]
    if arrays:
        figures = FILE.name, rates[FILE.name], "the aim", ARRAYS_A_SECOND
        rows.insert(0, at_least(*figures, 1.0, report.rate))
    details = [spread(name, runs) for name, runs in taken.items()]
    notes = ARRAYS_NOTES if arrays else NOTES
    return Section(f"zmqpull: {title}", rows, [*details, *notes], OURS)


def load_of(bench: Bench, share: float, arrays: bool) -> Load:
    """The part of the plain input that is a collector's, and the messages that are made of it."""
    source = bench.inputs[0].head(int(bench.lines * share))
    return Load(source, arrays, receipt_of(bench, Load(source, arrays, 0)).messages)


def receipt_of(bench: Bench, load: Load) -> Receipt:
    """What the C sink gets of a load."""
    options = ["--arrays"] if load.arrays else []
    with Sink(bench.tools, load.source.lines, *options) as sink:
        with send(bench, load, sink.endpoint):
            sink.wait_first()
            receipt = sink.wait_done()
        sink.wait()
    return receipt


def send_only(bench: Bench, load: Load) -> Collected:
    """How fast the sender is where nobody holds it back: the C sink collects."""
    return Collected(receipt_of(bench, load).rate, 0.0)


def spread(name: str, runs: list[Collected]) -> str:
    """The slowest, middle and fastest run of a collector, and what they cost."""
    rates = [run.rate for run in runs]
    text = f"{name}: {report.rate(median(rates))} ({report.rate(min(rates))} to "
    text += f"{report.rate(max(rates))})"
    cpu_us, server_cpu_us = (
        median(getattr(run, field) for run in runs) for field in ("cpu_us", "server_cpu_us")
    )
    if cpu_us:
        text += f", CPU an event {report.cpu_us(cpu_us)}"
    if server_cpu_us:
        text += f" and of the server {report.cpu_us(server_cpu_us)}"
    return text


#: How the figures of both sections came about.
NOTES = (
    "plain input. Events a second are those from the start of the sender, the C program by hand, "
    "to the last event in its place; the collector has bound its endpoint before. CPU is that "
    "from then on.",
    f"{SENDER}: into the C sink, from the first message to the last.",
    "Of the lines, "
    + ", ".join(f"{peer.name} {peer.share:.0%}" for peer in COLLECTORS if peer.share < 1)
    + "; all for the others. redis-server is on TCP, on this machine and its cores, with "
    "`appendonly no`. SQLite syncs each transaction; nobody else does, without `--ack`.",
    "The bare loop (pull_bare.py) writes each message as it comes, as rsyslog does (imczmq to "
    "omfile); zmqpull sees that it is valid JSON, an object, and on one line.",
)
ARRAYS_NOTES = (
    *NOTES,
    f"Of arrays of up to {BATCH} events zmqpull makes a line an event; to the others an array is "
    "one message and one line.",
)


# ---- acknowledged delivery ------------------------------------------------------------------


def acknowledged(bench: Bench) -> Section:
    """End to end, from a pipe into a file, with --ack and without."""
    pairs: dict[str, tuple[tuple[str, ...], float | None]] = {
        f"--batch {BATCH}": (("--batch", str(BATCH)), OF_PLAIN),
        "one message a line": ((), None),
        "--spool": (("--spool", str(bench.tools.spool)), None),
    }
    jobs = {
        (name, ack): partial(end_to_end, bench, options, ack)
        for name, (options, _) in pairs.items()
        for ack in (False, True)
    }
    taken = interleave("--ack", bench.runs, jobs)
    rows = []
    for name, (_, times) in pairs.items():
        ours, plain = (median(taken[name, ack]) for ack in (True, False))
        rows.append(at_least(f"{name}, --ack", ours, "plain", plain, times, report.rate))
    details = [
        f"{name}, {'--ack' if ack else 'plain'}: {report.rate(min(runs))} to "
        f"{report.rate(max(runs))}"
        for (name, ack), runs in taken.items()
    ]
    details += [
        f"`cat FILE | zmqpush.py`, {int(bench.lines * ACK_SHARE):,} lines of the plain input, to "
        "`zmqpull.py --output FILE`: lines a second from the start of cat, both ends connected, "
        "until zmqpull has all. With --ack it brings the file to the disk before each answer.",
        disk_speed(bench),
    ]
    return Section("Acknowledged delivery, end to end", rows, details, "zmqpush, zmqpull")


def end_to_end(bench: Bench, push_options: tuple[str, ...], ack: bool) -> float:
    """Lines a second from a pipe through zmqpush.py and zmqpull.py into a file."""
    both = ("--ack",) if ack else ()
    source = bench.inputs[0].head(int(bench.lines * ACK_SHARE))
    until = ("-n", str(source.lines + 1))
    with chain(bench, a_file, (*push_options, *both), (*both, *until)) as running:
        with cat(bench.tools, [source.path], running.feed) as writer:
            running.pull.wait()
            writer.wait()
        running.feed.close()
        running.push.wait()
        must_be("lines in the file", running.place.count(), source.lines + 1)
        return source.lines / (running.pull.ended_ns - writer.started_ns) * 1e9


# ---- the whole chain ------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """zmqpush.py and zmqpull.py, connected: one line has come through.

    Attributes:
        push, pull: the two.
        feed: the pipe to write lines to.
        place: where they go.
    """

    push: Child
    pull: Child
    feed: FileIO
    place: Place

    def cpu_ns(self) -> tuple[int, int, int]:
        """CPU time so far: of both, and of the server behind them."""
        return cpu_ns(self.push.pid), cpu_ns(self.pull.pid), self.place.server_cpu_ns()

    def wait_for(self, count: int) -> None:
        """Wait until there are so many events in their place.

        Raises:
            BenchError: there are not.
        """
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.place.count()) < count:
            if time.monotonic() > deadline or self.pull.has_ended():
                raise BenchError(f"{found} of {count} events came through")
            time.sleep(LOOK_EVERY_S)


@contextlib.contextmanager
def chain(
    bench: Bench,
    open_place: OpenPlace,
    push_options: tuple[str, ...] = (),
    pull_options: tuple[str, ...] = (),
) -> Iterator[Chain]:
    """Run both. Who uses the context lets them end in peace."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(working_folder(bench))
        place = stack.enter_context(open_place(folder))
        endpoint = stack.enter_context(nobody_listens())
        command = [*ZMQPULL, "--bind", endpoint, *pull_options, *place.options]
        pull = stack.enter_context(Child(OURS, command, folder))
        stack.enter_context(explained_by(pull))
        wait_until_listening(pull, endpoint)
        peer = StdinPeer("zmqpush", command=(*ZMQPUSH_QUIET, *push_options, "--connect"))
        push, feed = stack.enter_context(peer.live(bench.tools, endpoint))
        running = Chain(push, pull, feed, place)
        feed.write(FIRST_LINE)
        running.wait_for(1)
        yield running


@dataclass(frozen=True)
class Way:
    """A chain to measure.

    Attributes:
        name: as the report calls it.
        place: where the events go.
        burst: lines in one write.
        options: of both programs.
        spools: zmqpush.py has a spool.
        is_aim: there are targets for it.
    """

    name: str
    place: OpenPlace
    burst: int = 1
    options: tuple[str, ...] = ()
    spools: bool = False
    is_aim: bool = True


WAYS = (
    Way("into a file", a_file),
    Way("into a file, bursts", a_file, burst=CHAIN_RATE // 100),
    Way("into Redis", a_redis_list),
    Way("--spool --ack into a file", a_file, options=("--ack",), spools=True, is_aim=False),
)


@dataclass(frozen=True)
class Used:
    """CPU of each part of a chain at a steady rate, in percent of a core."""

    push: float
    pull: float
    server: float
    late_p99_us: float  # how steady the writer was


def whole_chain(bench: Bench) -> Section:
    """CPU of each part at a steady rate."""
    jobs = {way.name: partial(pass_through, bench, way) for way in WAYS}
    taken = interleave("chain", bench.runs, jobs)
    rows, details = [], []
    for way in WAYS:
        for part, limit in (("push", CHAIN_PUSH_PERCENT), ("pull", CHAIN_PULL_PERCENT)):
            used = median(getattr(run, part) for run in taken[way.name])
            rows.append(
                Row(
                    f"{way.name}: zmq{part}",
                    report.percent(used),
                    target=f"< {limit:g}%" if way.is_aim else "",
                    reached=used < limit if way.is_aim else None,
                )
            )
        late = median(run.late_p99_us for run in taken[way.name])
        server = median(run.server for run in taken[way.name])
        detail = f"{way.name}: the writer was {report.latency(late)} late at p99"
        details.append(detail + (f"; redis-server took {report.percent(server)}" if server else ""))
    details.append(
        f"A C program writes {CHAIN_RATE:,} lines a second into the pipe, one by one or in bursts "
        f"of 10 ms, for {CHAIN_S:g} s; CPU with all threads, until the last line is in its place."
    )
    return Section(f"The whole chain at {CHAIN_RATE:,} lines/s: CPU", rows, details, "CPU")


def pass_through(bench: Bench, way: Way) -> Used:
    """Let the C writer feed a chain for CHAIN_S."""
    lines = int(CHAIN_RATE * CHAIN_S)
    spool = ("--spool", str(bench.tools.spool)) if way.spools else ()
    with chain(bench, way.place, (*way.options, *spool), way.options) as running:
        for part in (running.push, running.pull):
            settle(part.pid, QUIET_S, SETTLE_AT_MOST_S)
        before_ns = running.cpu_ns()
        seconds, late_p99_us = write_paced(bench, running.feed, CHAIN_RATE, way.burst, lines)
        running.wait_for(lines + 1)
        used_ns = [after - before for after, before in zip(running.cpu_ns(), before_ns)]
        running.feed.close()
        running.push.wait()
        running.pull.stop()
    push, pull, server = (ns / 1e9 / seconds * 100 for ns in used_ns)
    return Used(push, pull, server, late_p99_us)


SECTIONS: dict[str, Callable[[Bench], Section]] = {
    "pull": partial(throughput, arrays=False),
    "pull-arrays": partial(throughput, arrays=True),
    "pull-ack": acknowledged,
    "chain": whole_chain,
}

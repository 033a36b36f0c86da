"""Who is measured, how each is run, and the C sink that all of them send to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from tests.bench.measure import BenchError, Child

BENCH = Path(__file__).resolve().parent
ZMQPUSH = BENCH.parent.parent / "zmqpush.py"
#: Events in an array, of zmqpush as of the C program.
BATCH = 500
#: Where rsyslogd is where it is not on an ordinary user's PATH.
SBIN = "/usr/sbin"


# ---- our C programs -------------------------------------------------------------------------


@dataclass(frozen=True)
class Tools:
    """A working folder, and the C programs built in it."""

    folder: Path

    @property
    def sink(self) -> str:
        return str(self.folder / "sink")

    @property
    def by_hand(self) -> str:
        return str(self.folder / "push_by_hand")

    @property
    def pace(self) -> str:
        return str(self.folder / "pace")

    @property
    def spool(self) -> Path:
        """The spool of those that have one; empty while none of them runs."""
        return self.folder / "spool"


def build(folder: Path) -> Tools:
    """Compile the C programs of this directory into a folder.

    Raises:
        BenchError: there is no compiler or no libzmq to link with; says what the compiler said.
    """
    compiler = os.environ.get("CC", "cc")
    for source in BENCH.glob("*.c"):
        command = [compiler, "-O2", "-o", str(folder / source.stem), str(source), "-lzmq"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise BenchError(f"no C compiler {compiler} (Debian: gcc libc6-dev)") from None
        except subprocess.CalledProcessError as error:
            raise BenchError(f"{source.name} (Debian: libzmq3-dev): {error.stderr}") from None
    return Tools(folder)


@dataclass(frozen=True)
class Receipt:
    """What a sink had when it was done. Times are CLOCK_MONOTONIC, in nanoseconds."""

    events: int
    messages: int
    bytes: int
    first_ns: int
    last_ns: int

    @property
    def rate(self) -> float:
        """Events a second, from the first message to the last."""
        return self.events / (self.last_ns - self.first_ns) * 1e9


class Sink(Child):
    """A running sink.c. Its methods are called in the order in which it says things."""

    def __init__(
        self, tools: Tools, events: int, *options: str, endpoint: str = "tcp://127.0.0.1:*"
    ) -> None:
        command = [tools.sink, endpoint, str(events), *options]
        super().__init__("sink", command, tools.folder, stdout=subprocess.PIPE)
        self._events = events
        (self.endpoint,) = self._read("endpoint")

    def wait_first(self) -> int:
        """When the first message came, in nanoseconds."""
        return int(self._read("first")[0])

    def wait_tenths(self) -> list[int]:
        """When each tenth of the events was in, in nanoseconds."""
        return [int(self._read("tenth")[1]) for _ in range(10)]

    def wait_latency(self) -> tuple[float, float]:
        """p50 and p99 of the time from the stamp in a line to its receipt, in microseconds."""
        p50, p99 = self._read("latency")
        return float(p50), float(p99)

    def wait_done(self) -> Receipt:
        """What it got.

        Raises:
            BenchError: that is not the number of events that were due.
        """
        receipt = Receipt(*map(int, self._read("done")))
        if receipt.events != self._events:
            raise BenchError(f"sink: {receipt.events} events instead of {self._events}")
        return receipt

    def _read(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        said, *values = self.process.stdout.readline().decode().split() or ["nothing"]
        if said != word:
            raise BenchError(f"sink said {said} instead of {word}: {self.said()}")
        return values


@contextlib.contextmanager
def nobody_listens() -> Iterator[str]:
    """An endpoint that is ours, with no collector yet: one may bind it inside the context."""
    with socket.socket() as holder:
        # A bound socket that does not listen keeps the port from others; libzmq sets the
        # same option, so that its sockets can bind it all the same.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{holder.getsockname()[1]}"


# ---- the peers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer(ABC):
    """A program that ships lines.

    Attributes:
        name: as the report calls it.
        arrays: it sends JSON arrays of up to BATCH events, not an event a message.
        share: the part of the input that it is given where speed is measured; 1 but for one
            so slow that all of it would take minutes.
    """

    name: str
    arrays: bool = False
    share: float = 1.0

    @abstractmethod
    def ship(
        self, tools: Tools, endpoint: str, source: Path
    ) -> contextlib.AbstractContextManager[Child]:
        """Run it on a file. When the context is left it has ended."""

    def sink_options(self) -> list[str]:
        """What a sink must know to count its events."""
        return ["--arrays"] if self.arrays else []


@dataclass(frozen=True)
class StdinPeer(Peer):
    """A peer that reads stdin; its last argument is the endpoint to connect to.

    Attributes:
        sink: what the sink must be told of it, beside whether it sends arrays.
    """

    command: tuple[str, ...] = ()
    sink: tuple[str, ...] = ()

    def sink_options(self) -> list[str]:
        """What a sink must know to take its events, and count them."""
        return [*super().sink_options(), *self.sink]

    @contextlib.contextmanager
    def ship(self, tools: Tools, endpoint: str, source: Path) -> Iterator[Child]:
        """Run `cat SOURCE | COMMAND ENDPOINT`."""
        with self.live(tools, endpoint) as (child, feed):
            with cat(tools, [source], feed) as writer:
                feed.close()
                yield child
                writer.wait()
            child.wait()

    @contextlib.contextmanager
    def live(self, tools: Tools, endpoint: str) -> Iterator[tuple[Child, FileIO]]:
        """Run it with a pipe for its stdin, and hand out the end to write to.

        That end is closed on the way out, if not before; the child is then not waited for.
        """
        outlet_fd, feed_fd = os.pipe()
        with FileIO(outlet_fd) as outlet, FileIO(feed_fd, "w") as feed:
            command = [*self.command, endpoint]
            with Child(self.name, command, tools.folder, stdin=outlet.fileno()) as child:
                outlet.close()
                with explained_by(child):
                    yield child, feed


def cat(tools: Tools, sources: list[Path], into: FileIO) -> Child:
    """Write files into a pipe."""
    command = ["cat", *map(str, sources)]
    return Child("cat", command, tools.folder, stdout=into.fileno())


@contextlib.contextmanager
def explained_by(child: Child) -> Iterator[None]:
    """When something goes wrong at the sink, the shipper may know why."""
    try:
        yield
    except BenchError as error:
        raise BenchError(f"{error}\n{child.name} said: {child.said()}") from error


@dataclass(frozen=True)
class Rsyslog(Peer):
    """rsyslogd, reading a file (imfile) and pushing with its own output module (omczmq).

    Attributes:
        queue: the main_queue() statement; empty for the queue that it has by itself.
    """

    queue: str = ""

    @contextlib.contextmanager
    def ship(self, tools: Tools, endpoint: str, source: Path) -> Iterator[Child]:
        """Run rsyslogd in the foreground; it does not end by itself."""
        rsyslogd = find_rsyslogd()
        with tempfile.TemporaryDirectory(dir=tools.folder) as state:
            configuration = Path(state, "rsyslog.conf")
            configuration.write_text(rsyslog_configuration(self.queue, state, endpoint, source))
            command = [rsyslogd, "-n", "-f", str(configuration), "-i", str(Path(state, "pid"))]
            with Child(self.name, command, tools.folder) as child, explained_by(child):
                yield child
                child.stop()


def find_rsyslogd() -> str:
    """The path of rsyslogd.

    Raises:
        BenchError: there is none.
    """
    path = os.pathsep.join((os.environ.get("PATH", ""), SBIN))
    found = shutil.which("rsyslogd", path=path)
    if not found:
        raise BenchError("no rsyslogd (Debian: rsyslog rsyslog-czmq)")
    return found


#: What makes rsyslog fast here, found by trying: large batches, a queue that holds a fifth of
#: the input, and one worker, since more only contend for the one socket.
TUNED_QUEUE = """
main_queue(queue.type="FixedArray" queue.size="200000" queue.dequeueBatchSize="1024"
           queue.workerThreads="1")
"""


def rsyslog_configuration(queue: str, state: str, endpoint: str, source: Path) -> str:
    """imfile to omczmq, each event as zmqpush makes it.

    Nothing is limited in rate, and nothing goes to disk but imfile's note of where it is.
    The template cannot tell the pid: a constant is even a little less work.
    """

    def quoted(text: str) -> str:
        return json.dumps(text)  # rsyslog's strings have the escapes that are needed here

    return f"""
global(workDirectory={quoted(state)} maxMessageSize="64k")
module(load="imfile" mode="inotify")
module(load="omczmq")
{queue}
template(name="event" type="list") {{
    constant(value="{{\\"message\\":\\"")
    property(name="msg" format="json")
    constant(value="\\",\\"type\\":\\"syslog\\",\\"@pid\\":{os.getpid()}}}")
}}
input(type="imfile" file={quoted(str(source))} tag="bench:" freshStartTail="off"
      maxLinesAtOnce="0" maxSubmitAtOnce="1024" persistStateInterval="0")
action(type="omczmq" endpoints={quoted(">" + endpoint)} sockType="PUSH" template="event")
"""


@dataclass(frozen=True)
class Peers:
    """Everybody."""

    zmqpush: StdinPeer
    zmqpush_batch: StdinPeer
    spool: StdinPeer
    spool_batch: StdinPeer
    by_hand: StdinPeer
    by_hand_arrays: StdinPeer
    omczmq: Rsyslog
    omczmq_tuned: Rsyslog
    classic: StdinPeer

    def __iter__(self) -> Iterator[Peer]:
        return iter(vars(self).values())


def make_peers(tools: Tools) -> Peers:
    """Name everybody, and how they are run."""
    zmqpush = (sys.executable, str(ZMQPUSH), "--quiet")
    spool = (*zmqpush, "--spool", str(tools.spool))
    return Peers(
        zmqpush=StdinPeer("zmqpush", command=(*zmqpush, "--connect")),
        zmqpush_batch=StdinPeer(
            f"zmqpush --batch {BATCH}",
            arrays=True,
            command=(*zmqpush, "--batch", str(BATCH), "--connect"),
        ),
        spool=StdinPeer("zmqpush --spool", command=(*spool, "--connect")),
        spool_batch=StdinPeer(
            f"zmqpush --spool --batch {BATCH}",
            arrays=True,
            command=(*spool, "--batch", str(BATCH), "--connect"),
        ),
        by_hand=StdinPeer("C by hand", command=(tools.by_hand,)),
        by_hand_arrays=StdinPeer(
            "C by hand, arrays", arrays=True, command=(tools.by_hand, "--arrays", str(BATCH))
        ),
        omczmq=Rsyslog("rsyslog omczmq"),
        omczmq_tuned=Rsyslog("rsyslog omczmq, tuned", queue=TUNED_QUEUE),
        classic=StdinPeer(
            "classic asyncio", share=0.1, command=(sys.executable, str(BENCH / "classic.py"))
        ),
    )


# ---- one delivery ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Delivery:
    """How a peer did with a file.

    Attributes:
        rate: events a second, from the first message at the sink to the last.
        whole_s: from the start of the program to the last event at the sink.
        cpu_us: CPU time of the program an event, its start included, in microseconds.
    """

    rate: float
    whole_s: float
    cpu_us: float


def deliver(
    peer: Peer, tools: Tools, source: Path, lines: int, sink_rate: int | None = None
) -> Delivery:
    """Let a peer ship a file of so many lines to a sink, that takes at most `sink_rate`/s."""
    options = peer.sink_options()
    if sink_rate:
        options += ["--rate", str(sink_rate)]
    with Sink(tools, lines, *options) as sink:
        with peer.ship(tools, sink.endpoint, source) as child:
            sink.wait_first()
            receipt = sink.wait_done()
        sink.wait()
    return Delivery(
        rate=receipt.rate,
        whole_s=(receipt.last_ns - child.started_ns) / 1e9,
        cpu_us=child.cpu_s / receipt.events * 1e6,
    )

"""What the bench measures: one function a section, in the order of the report.

To add a section: write a function that takes a Bench and returns a Section, and name it in
SECTIONS. Those of --spool and --omprog are in files of their own.
"""

from __future__ import annotations

import array
import compileall
import contextlib
import fcntl
import math
import shutil
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Callable

from tests.bench import report
from tests.bench.inputs import Input
from tests.bench.measure import (
    LOOK_EVERY_S,
    Child,
    cpu_ns,
    disk_bytes,
    interleave,
    median,
    memory_bytes,
    settle,
    wake_ups,
)
from tests.bench.peers import (
    ZMQPUSH,
    Delivery,
    Peer,
    Peers,
    Sink,
    StdinPeer,
    Tools,
    cat,
    deliver,
    nobody_listens,
)
from tests.bench.report import NOISE, Row, Section, at_least, at_most

SLOW_SINK_RATE = 200_000
IDLE_S = 10.0
PACED_S = 5.0
LATENCY_RATE = 1_000
START_RUNS = 20

#: The backlog grows with --lines, to 1 GB for a million of them.
BACKLOG_BYTES_A_LINE = 1_000
BACKLOG_TIMES = 1.15
#: How much of a backlog may stay in memory and still count as given back.
BACKLOG_KEPT = 0.05
#: A tenth of a drain is short, and its rate less sure than that of a whole delivery; what
#: gets slower with the length of the queue does so many times over.
TENTH_NOISE = 0.1

#: How long a process must have slept to count as idle. Before it watches one that cannot
#: connect, the bench waits until its attempts have become as rare as they will.
QUIET_S = 0.2
QUIET_BETWEEN_ATTEMPTS_S = 1.7
SETTLE_AT_MOST_S = 15.0


@dataclass(frozen=True)
class Bench:
    """What every section needs to know.

    Attributes:
        tools: the working folder and the C programs in it.
        peers: who is measured.
        inputs: the files they ship, of `lines` lines each; the first is the plain one.
        lines: how many.
        runs: how often everything is measured; the median counts.
    """

    tools: Tools
    peers: Peers
    inputs: list[Input]
    lines: int
    runs: int


# ---- throughput -----------------------------------------------------------------------------


def throughput(bench: Bench) -> Section:
    """Everybody ships both inputs to a sink that takes all it can get."""
    peers = bench.peers
    comparisons = [
        ("one message a line", peers.zmqpush, peers.omczmq, 4.0),
        ("one message a line", peers.zmqpush, peers.omczmq_tuned, 4.0),
        ("one message a line", peers.zmqpush, peers.by_hand, 0.75),
        ("one message a line", peers.zmqpush, peers.classic, 25.0),
        ("--batch 500", peers.zmqpush_batch, peers.omczmq, 11.0),
        ("--batch 500", peers.zmqpush_batch, peers.omczmq_tuned, 11.0),
        ("--batch 500", peers.zmqpush_batch, peers.by_hand_arrays, 0.5),
    ]
    rows, details = [], []
    for source in bench.inputs:
        named = [(f"{source.name}: {what}", *pair) for what, *pair in comparisons]
        more_rows, more_details = compare(bench, "throughput", source, named)
        rows += more_rows
        details += more_details
    details.append(
        "Events a second as the sink saw them, from its first message to its last; "
        f"{bench.lines:,} lines, but for those named above with a share of them."
    )
    return Section("Throughput", rows, details)


def compare(
    bench: Bench, title: str, source: Input, comparisons: Sequence[Sequence[Any]]
) -> tuple[list[Row], list[str]]:
    """Rows and details: ours beside others, who ship an input to a sink that takes all it can get.

    A comparison is what it is about, ours, the other, and how many times its rate ours must be at
    least (None: it need not).
    """
    jobs = {
        peer.name: partial(deliver_share, bench, peer, source)
        for _, ours, other, _ in comparisons
        for peer in (ours, other)
    }
    taken = interleave(f"{title}, {source.name}", bench.runs, jobs)
    rates = {name: median(run.rate for run in runs) for name, runs in taken.items()}
    rows = [
        at_least(what, rates[ours.name], other.name, rates[other.name], times, report.rate)
        for what, ours, other, times in comparisons
    ]
    return rows, [f"{source.name}, {spread(name, runs)}" for name, runs in taken.items()]


def deliver_share(bench: Bench, peer: Peer, source: Input) -> Delivery:
    """One delivery of the part of an input that is meant for this peer."""
    lines = int(bench.lines * peer.share)
    return deliver(peer, bench.tools, source.head(lines).path, lines)


def spread(name: str, runs: list[Delivery]) -> str:
    """The slowest, middle and fastest run of a peer, and what it took besides."""
    rates = [run.rate for run in runs]
    return (
        f"{name}: {report.rate(median(rates))} ({report.rate(min(rates))} to "
        f"{report.rate(max(rates))}), from its start to the last event "
        f"{median(run.whole_s for run in runs):.2f} s, CPU a line "
        f"{report.cpu_us(median(run.cpu_us for run in runs))}"
    )


# ---- a slow sink ----------------------------------------------------------------------------


def slow_sink(bench: Bench) -> Section:
    """A sink slower than the shipper: is its speed reached, and what does waiting cost?"""
    source, zmqpush, by_hand = bench.inputs[0], bench.peers.zmqpush, bench.peers.by_hand
    speeds = {"slow": SLOW_SINK_RATE, "full": None}
    jobs = {
        (peer.name, speed): partial(deliver, peer, bench.tools, source.path, bench.lines, sink_rate)
        for peer in (zmqpush, by_hand)
        for speed, sink_rate in speeds.items()
    }
    taken = interleave("slow sink", bench.runs, jobs)
    rates = {job: median(run.rate for run in runs) for job, runs in taken.items()}
    cpu = {job: median(run.cpu_us for run in runs) for job, runs in taken.items()}
    ours, c = (zmqpush.name, "slow"), (by_hand.name, "slow")
    rows = [
        at_least("rate", rates[ours], "the sink's", SLOW_SINK_RATE, 1 - NOISE, report.rate),
        at_most("rate", rates[ours], by_hand.name, rates[c], None, report.rate),
        at_most(
            "CPU a line",
            cpu[ours],
            "itself at full speed",
            cpu[zmqpush.name, "full"],
            1 + NOISE,
            report.cpu_us,
        ),
        at_most("CPU a line", cpu[ours], by_hand.name, cpu[c], None, report.cpu_us),
    ]
    detail = (
        f"{source.name} input; CPU includes the start of the program. {by_hand.name} at full "
        f"speed: {report.cpu_us(cpu[by_hand.name, 'full'])} a line. A difference of "
        f"{NOISE:.0%} counts as none."
    )
    return Section(f"A sink that takes {SLOW_SINK_RATE:,} events/s", rows, [detail])


# ---- idle -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rest:
    """What a process did while there was nothing to do."""

    wake_ups: float  # a second
    cpu_percent: float  # of a core


def idle(bench: Bench) -> Section:
    """Wake-ups and CPU of a process that has no input, connected and not."""
    rows = []
    for condition, watch_one, limit in (
        ("connected", idle_connected, "0"),
        ("not connected", idle_unconnected, "< 1"),
    ):
        ours, c = (watch_one(bench, peer) for peer in (bench.peers.zmqpush, bench.peers.by_hand))
        reached = ours.wake_ups == 0 if limit == "0" else ours.wake_ups < 1
        rows += [
            Row(
                f"{condition}: wake-ups a second",
                f"{ours.wake_ups:.1f}",
                f"{bench.peers.by_hand.name} {c.wake_ups:.1f}",
                target=limit,
                reached=reached,
            ),
            Row(
                f"{condition}: CPU",
                report.percent(ours.cpu_percent),
                f"{bench.peers.by_hand.name} {report.percent(c.cpu_percent)}",
            ),
        ]
    detail = "Wake-ups are the context switches of all threads, of libzmq's too."
    return Section(f"Idle for {IDLE_S:g} s", rows, [detail])


def idle_connected(bench: Bench, peer: StdinPeer) -> Rest:
    """After one line has gone through to a sink that stays."""
    with primed(bench, peer, 1) as (_, child, _):
        return watch(child, QUIET_S)


def idle_unconnected(bench: Bench, peer: StdinPeer) -> Rest:
    """Without a collector from the start."""
    with nobody_listens() as endpoint, peer.live(bench.tools, endpoint) as (child, _):
        return watch(child, QUIET_BETWEEN_ATTEMPTS_S)


def watch(child: Child, quiet_s: float) -> Rest:
    """Wait until a process has come to rest, then look on for IDLE_S."""
    settle(child.pid, quiet_s, SETTLE_AT_MOST_S)
    start_s, woken, used_ns = time.monotonic(), wake_ups(child.pid), cpu_ns(child.pid)
    time.sleep(IDLE_S)
    passed_s = time.monotonic() - start_s
    return Rest(
        wake_ups=(wake_ups(child.pid) - woken) / passed_s,
        cpu_percent=(cpu_ns(child.pid) - used_ns) / 1e9 / passed_s * 100,
    )


@contextlib.contextmanager
def primed(
    bench: Bench, peer: StdinPeer, lines: int, *sink_options: str
) -> Iterator[tuple[Sink, Child, FileIO]]:
    """A peer that has shipped one line, so that it is known to be up and connected.

    Hands out its sink, that waits for `lines` more, the peer, and the pipe to write them to.
    When the context is left in peace the pipe is closed and the peer has ended.
    """
    sink = Sink(bench.tools, lines + 1, *sink_options)
    with sink, peer.live(bench.tools, sink.endpoint) as (child, feed):
        feed.write(b"the first line\n")
        sink.wait_first()
        yield sink, child, feed
        feed.close()
        child.wait()


# ---- CPU at a given rate --------------------------------------------------------------------


@dataclass(frozen=True)
class PacedRun:
    """CPU of a peer while lines came at a steady rate, and how steady the writer was."""

    cpu_percent: float  # of a core
    writer_rate: float  # lines a second
    late_p99_us: float


def cpu_at_rates(bench: Bench) -> Section:
    """CPU at some rates, the lines one by one and in bursts of 10 ms."""
    peers = (bench.peers.zmqpush, bench.peers.by_hand)
    rows, details = [], []
    for lines_a_second, limit in ((500, 2.0), (10_000, 4.0), (100_000, None)):
        for shape, burst in (("one by one", 1), ("bursts", lines_a_second // 100)):
            what = f"{lines_a_second:,} lines/s, {shape}"
            jobs = {peer.name: partial(paced, bench, peer, lines_a_second, burst) for peer in peers}
            taken = interleave(what, bench.runs, jobs)
            ours, c = (median(run.cpu_percent for run in taken[peer.name]) for peer in peers)
            rows.append(
                Row(
                    what,
                    report.percent(ours),
                    f"{bench.peers.by_hand.name} {report.percent(c)}",
                    f"{ours / c:.2f} ×",
                    f"< {limit:g}%" if limit else "",
                    ours < limit if limit else None,
                )
            )
            details.append(f"{what}: {accuracy([run for runs in taken.values() for run in runs])}")
    return Section("CPU, percent of a core", rows, details)


def paced(bench: Bench, peer: StdinPeer, lines_a_second: int, burst: int) -> PacedRun:
    """Let the C writer feed a peer for PACED_S."""
    lines = int(lines_a_second * PACED_S)
    with primed(bench, peer, lines) as (sink, child, feed):
        settle(child.pid, QUIET_S, SETTLE_AT_MOST_S)
        before_ns = cpu_ns(child.pid)
        seconds, late_p99_us = write_paced(bench, feed, lines_a_second, burst, lines)
        sink.wait_done()
        used_ns = cpu_ns(child.pid) - before_ns
    return PacedRun(used_ns / 1e9 / seconds * 100, lines / seconds, late_p99_us)


def write_paced(
    bench: Bench, feed: FileIO | socket.socket, lines_a_second: int, burst: int, lines: int
) -> tuple[float, float]:
    """Run the C writer to its end: how many seconds it took, and its p99 lateness in µs."""
    command = [bench.tools.pace, *map(str, (lines_a_second, burst, lines))]
    with Child("pace", command, bench.tools.folder, stdout=feed.fileno()) as writer:
        writer.wait()
        _, seconds, _, late_p99_us = writer.said().split()
    return float(seconds), float(late_p99_us)


def accuracy(runs: list[PacedRun]) -> str:
    """How well the writer kept time."""
    return (
        f"the writer reached {report.rate(median(run.writer_rate for run in runs))}, "
        f"{report.latency(median(run.late_p99_us for run in runs))} late at p99"
    )


# ---- latency --------------------------------------------------------------------------------


def latency(bench: Bench) -> Section:
    """Line in to message out, at a rate at which nothing queues; and at which lines gather."""
    zmqpush, by_hand = bench.peers.zmqpush, bench.peers.by_hand
    *words, connect = zmqpush.command
    at_once = replace(
        zmqpush, name="zmqpush --gather 0", command=(*words, "--gather", "0", connect)
    )
    jobs = {peer.name: partial(latency_of, bench, peer) for peer in (zmqpush, at_once, by_hand)}
    taken = interleave("latency", bench.runs, jobs)
    rows = []
    for index, (what, times) in enumerate((("p50", 1.5), ("p99", 2.0))):
        gathered, ours, c = (median(run[index] for run in taken[name]) for name in jobs)
        rows += [
            at_most(f"{what}, --gather 0", ours, by_hand.name, c, times, report.latency),
            at_most(f"{what}, as it comes", gathered, by_hand.name, c, None, report.latency),
        ]
    detail = "From just before the write() of a line to the receipt of its event at the sink."
    return Section(f"Latency at {LATENCY_RATE:,} lines/s", rows, [detail])


def latency_of(bench: Bench, peer: StdinPeer) -> tuple[float, float]:
    """p50 and p99, in microseconds."""
    lines = int(LATENCY_RATE * PACED_S)
    with primed(bench, peer, lines, "--latency") as (sink, child, feed):
        settle(child.pid, QUIET_S, SETTLE_AT_MOST_S)
        write_paced(bench, feed, LATENCY_RATE, 1, lines)
        return sink.wait_latency()


# ---- a backlog ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backlog:
    """What zmqpush did with a backlog. Sizes in bytes, rates in events a second."""

    input_bytes: int
    idle_rss: int  # before there was any input
    peak_rss: int  # the most there ever was until all was read
    final_peak_rss: int  # the most there ever was until all was delivered
    final_rss: int  # then, stdin still open
    spooled: int  # on disk, when all was read
    final_spooled: int  # when all was delivered
    read_s: float  # from the first byte written to the last one read
    drain_rates: list[float]  # of each tenth


def backlog(bench: Bench) -> Section:
    """Memory that a backlog takes and gives back, and how fast it drains."""
    job = bench, bench.peers.zmqpush, BACKLOG_BYTES_A_LINE
    runs = interleave("backlog", bench.runs, {"": partial(build_and_drain, *job)})[""]
    size = runs[0].input_bytes
    peak, idle_rss, final = (
        median(getattr(run, field) for run in runs)
        for field in ("peak_rss", "idle_rss", "final_rss")
    )
    first, last = (median(run.drain_rates[tenth] for run in runs) for tenth in (0, -1))
    rows = [
        at_most("memory at its peak", peak, "the input", size, BACKLOG_TIMES, report.memory),
        Row(
            "memory when drained",
            report.memory(final),
            f"before it {report.memory(idle_rss)}",
            target=f"≤ + {BACKLOG_KEPT:.0%} of the input",
            reached=final - idle_rss <= BACKLOG_KEPT * size,
        ),
        at_least("drain, last tenth", last, "first tenth", first, 1 - TENTH_NOISE, report.rate),
    ]
    rates = [median(rates) for rates in zip(*(run.drain_rates for run in runs))]
    details = [
        f"Read in {median(run.read_s for run in runs):.1f} s. Drained at, by tenths: "
        + ", ".join(map(report.rate, rates))
        + f". A difference of {TENTH_NOISE:.0%} counts as none."
    ]
    return Section(f"A backlog of {report.memory(size)} of input", rows, details)


def build_and_drain(bench: Bench, peer: StdinPeer, bytes_a_line: int) -> Backlog:
    """Feed it while there is no collector, then be the collector."""
    sources = backlog_files(bench, bytes_a_line)
    lines = sum(source.lines for source in sources)
    with nobody_listens() as endpoint, peer.live(bench.tools, endpoint) as (child, feed):
        settle(child.pid, QUIET_S, SETTLE_AT_MOST_S)
        idle_rss, start = memory_bytes(child.pid, "VmRSS"), time.monotonic()
        with cat(bench.tools, [source.path for source in sources], feed) as writer:
            writer.wait()
        wait_until_read(feed)
        read_s = time.monotonic() - start
        settle(child.pid, QUIET_S, SETTLE_AT_MOST_S)
        peak_rss, spooled = memory_bytes(child.pid, "VmHWM"), disk_bytes(bench.tools.spool)
        with Sink(bench.tools, lines, "--tenths", endpoint=endpoint) as sink:
            times = [sink.wait_first(), *sink.wait_tenths()]
            sink.wait_done()
        settle(child.pid, QUIET_S, SETTLE_AT_MOST_S)
        final_peak_rss = memory_bytes(child.pid, "VmHWM")
        final_rss, final_spooled = memory_bytes(child.pid, "VmRSS"), disk_bytes(bench.tools.spool)
        feed.close()
        child.wait()
    rates = [lines / 10 / (end - start) * 1e9 for start, end in zip(times, times[1:])]
    size = sum(source.path.stat().st_size for source in sources)
    return Backlog(
        size, idle_rss, peak_rss, final_peak_rss, final_rss, spooled, final_spooled, read_s, rates
    )


def backlog_files(bench: Bench, bytes_a_line: int) -> list[Input]:
    """The plain input, as often as makes so many bytes for each line of an input."""
    plain = bench.inputs[0]
    lines = math.ceil(bench.lines * bytes_a_line / (plain.path.stat().st_size / plain.lines))
    whole, rest = divmod(lines, plain.lines)
    return [plain] * whole + ([plain.head(rest)] if rest else [])


def wait_until_read(feed: FileIO) -> None:
    """Wait until a pipe, that nobody writes to any more, is empty."""
    unread = array.array("i", [1])
    while unread[0]:
        time.sleep(LOOK_EVERY_S)
        fcntl.ioctl(feed, termios.FIONREAD, unread)


# ---- start ----------------------------------------------------------------------------------


def start(bench: Bench) -> Section:
    """The whole life of a process that ships one line, over that of one that only imports."""
    line = Path(bench.tools.folder, "one-line")
    line.write_text("x\n")

    def ship_one(command: list[str]) -> float:
        peer = replace(bench.peers.zmqpush, command=(*command, "--quiet", "--connect"))
        sink = Sink(bench.tools, 1)
        with sink, peer.ship(bench.tools, sink.endpoint, line) as child:
            sink.wait_first()
            sink.wait_done()
        return (child.ended_ns - child.started_ns) / 1e9

    def import_only() -> float:
        command = [sys.executable, "-c", "import zmq, aiozmq"]
        with Child("imports", command, bench.tools.folder) as child:
            child.wait()
        return (child.ended_ns - child.started_ns) / 1e9

    jobs = {"imports": import_only}
    for name, command in starts(bench.tools.folder).items():
        jobs[name] = partial(ship_one, command)
    taken = interleave("start", START_RUNS, jobs)
    imports = median(taken.pop("imports"))
    over = {name: median(times) - imports for name, times in taken.items()}
    rows = [
        at_most(
            f"{name}: over import zmq, aiozmq",
            over[name],
            BEFORE,
            over[BEFORE],
            times,
            report.milliseconds,
        )
        if BEFORE in over
        else Row(f"{name}: over import zmq, aiozmq", report.milliseconds(over[name]))
        for name, times in ((COPIED, 0.7), (INSTALLED, 0.4))
    ]
    details = [
        f"Medians of {START_RUNS} runs. The imports alone take {report.milliseconds(imports)}."
    ]
    return Section("Start: echo x \\| zmqpush.py, the whole process", rows, details)


COPIED, INSTALLED = "a copied file", "installed as zmqpush"
BEFORE = "one file with all parts"
#: The commit of that file, which the others are measured against.
ONE_FILE = "9a5e599:zmqpush.py"


def starts(folder: Path) -> dict[str, list[str]]:
    """The command of each way to start the shipper; each has a folder of its own."""
    copied, before, installed = (folder / name for name in ("copied", "before", "installed"))
    for each in (copied, before, installed):
        each.mkdir()
    shutil.copy2(ZMQPUSH, copied)
    commands = {COPIED: [sys.executable, str(copied / "zmqpush.py")]}
    shutil.copy2(ZMQPUSH, installed)
    shutil.copytree(ZMQPUSH.with_name("zmqlines"), installed / "zmqlines")
    compileall.compile_dir(installed, quiet=1)
    launcher = folder / "zmqpush"
    shutil.copy2(ZMQPUSH.with_name("packaging") / "launcher", launcher)
    path = f"PYTHONPATH={installed}"
    commands[INSTALLED] = ["/usr/bin/env", path, sys.executable, str(launcher)]
    show = ["git", "-C", str(ZMQPUSH.parent), "show", ONE_FILE]
    shown = subprocess.run(show, capture_output=True, check=False)
    if shown.returncode == 0:
        (before / "zmqpush.py").write_bytes(shown.stdout)
        commands[BEFORE] = [sys.executable, str(before / "zmqpush.py")]
    return commands


SECTIONS: dict[str, Callable[[Bench], Section]] = {
    "throughput": throughput,
    "slow-sink": slow_sink,
    "idle": idle,
    "cpu": cpu_at_rates,
    "latency": latency,
    "backlog": backlog,
    "start": start,
}

"""What the bench measures of `--omprog`, beside a loop that only answers.

A real rsyslogd runs each program with omprog and confirmMessages="on": one process, right from
the only worker of the main queue, so that rsyslog waits for nothing but the answers. The lines
come from the C writer, through rsyslog's input socket. A mark before them and one after them
take the same way; once a mark was answered rsyslog writes it into a pipe of ours. So the time is
rsyslog's, and is taken alike for programs that ship and those that do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable

from tests.bench import report
from tests.bench.measure import (
    LOOK_EVERY_S,
    PATIENCE_S,
    BenchError,
    Child,
    children,
    cpu_ns,
    interleave,
    median,
    settle,
    sync_rate,
)
from tests.bench.peers import BENCH, ZMQPUSH, Sink, explained_by, find_rsyslogd
from tests.bench.report import Section, at_least, at_most
from tests.bench.sections import QUIET_S, SETTLE_AT_MOST_S, Bench, write_paced

MARK = b"mark"
#: The first, that finds the program up, and the last.
MARKS = 2
#: Lines a second: more than anybody can do, so that the writer never waits.
FULL_SPEED = 1_000_000_000
PACED_RATE = 5_000
PACED_S = 1.0
#: Messages that rsyslog's queue has room for besides the lines.
QUEUE_SLACK = 1_000
#: Of the rate of the bare loop.
TARGET = 0.8
#: What the disk can do, as the report calls it.
DISK = "write and fdatasync"
#: A rate that is this much short of it was not kept.
KEPT = 0.98


@dataclass(frozen=True)
class Program:
    """What rsyslogd runs.

    Attributes:
        name: as the report calls it.
        command: the program and its arguments, but for those that change from run to run.
        transactions: rsyslog uses them.
        ships: it wants --connect and the endpoint of a sink.
        spools: it wants --spool and a directory.
        share: the part of the lines of an input that takes it a second or two.
    """

    name: str
    command: tuple[str, ...]
    transactions: bool = False
    ships: bool = True
    spools: bool = False
    share: float = 0.02


ANSWER = (sys.executable, str(BENCH / "answer.py"))
OMPROG = (sys.executable, str(ZMQPUSH), "--quiet", "--omprog")
OMPROG_TX = (*OMPROG, "--omprog-transactions")

BARE = Program("bare loop", ANSWER, ships=False, share=0.06)
BARE_TX = Program(
    "bare loop, transactions",
    (*ANSWER, "--transactions"),
    transactions=True,
    ships=False,
    share=0.06,
)
PLAIN = Program("--omprog", OMPROG)
PLAIN_TX = Program("--omprog, transactions", OMPROG_TX, transactions=True)
SPOOL = Program("--omprog --spool", OMPROG, spools=True, share=0.005)
SPOOL_TX = Program(
    "--omprog --spool, transactions", OMPROG_TX, transactions=True, spools=True, share=0.01
)
PROGRAMS = (BARE, PLAIN, SPOOL, BARE_TX, PLAIN_TX, SPOOL_TX)


# ---- a program under rsyslogd ---------------------------------------------------------------


@dataclass(frozen=True)
class Dialogue:
    """A program that rsyslogd runs.

    Attributes:
        entrance: a connected socket; a datagram is a message to rsyslogd.
        answered: the descriptor of the pipe in which the marks come back.
    """

    entrance: socket.socket
    answered: int

    def mark(self) -> int:
        """Log a mark and wait until it was answered; returns when that was, in nanoseconds.

        Raises:
            BenchError: it was not.
        """
        self.entrance.send(MARK)
        if not select.select([self.answered], [], [], PATIENCE_S)[0]:
            raise BenchError(f"no answer within {PATIENCE_S:g} s")
        os.read(self.answered, 1000)
        return time.monotonic_ns()


@contextlib.contextmanager
def run_by_rsyslog(bench: Bench, program: Program, lines: int) -> Iterator[tuple[Dialogue, int]]:
    """Hands out the dialogue with a program that is up, and connected if it ships; and its pid.

    It is to be given so many lines, and a mark. When the context is left in peace, that process
    has answered them all, and its sink has them.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.tools.folder)))
        command = list(program.command)
        if program.spools:
            command += ["--spool", str(folder / "spool")]
        if program.ships:
            sink = stack.enter_context(Sink(bench.tools, lines + MARKS))
            command += ["--connect", sink.endpoint]
        os.mkfifo(folder / "answered")
        answered = os.open(folder / "answered", os.O_RDWR)  # so that it waits for no writer
        stack.callback(os.close, answered)
        rsyslogd = stack.enter_context(start_rsyslogd(program, command, folder, lines))
        stack.enter_context(explained_by(rsyslogd))
        entrance = stack.enter_context(enter(rsyslogd, folder / "log"))
        dialogue = Dialogue(entrance, answered)
        dialogue.mark()
        (pid,) = children(rsyslogd.pid)
        if program.ships:
            sink.wait_first()
        yield dialogue, pid
        if children(rsyslogd.pid) != [pid]:
            raise BenchError("rsyslogd had to start the program again")
        if program.ships:
            sink.wait_done()


@contextlib.contextmanager
def start_rsyslogd(
    program: Program, command: list[str], folder: Path, lines: int
) -> Iterator[Child]:
    """Run rsyslogd; on the way out it is stopped, and the programs that it has started end."""
    file = folder / "rsyslog.conf"
    file.write_text(rsyslog_configuration(program, command, folder, lines))
    with Child("rsyslogd", [find_rsyslogd(), "-n", "-f", str(file), "-iNONE"], folder) as rsyslogd:
        try:
            yield rsyslogd
        finally:
            with contextlib.ExitStack() as ends:
                for pid in children(rsyslogd.pid):
                    ends.callback(see_it_end, os.pidfd_open(pid))
                rsyslogd.stop()


def see_it_end(pidfd: int) -> None:
    """Wait until a process has ended that has a reason to, and kill it if it does not."""
    if not select.select([pidfd], [], [], PATIENCE_S)[0]:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def rsyslog_configuration(program: Program, command: list[str], folder: Path, lines: int) -> str:
    """The socket, the worker and omprog; then, for a mark, the pipe.

    The queue has room for everything: when it is full rsyslog throws away what a socket brings.
    No mark overtakes a line: what is not confirmed is tried again for ever, and to modules that
    know transactions, as omprog and omfile do (and ompipe does not), rsyslog hands what it took
    out of its queue at once, one after the other.
    """

    def quoted(text: object) -> str:
        return json.dumps(str(text))  # rsyslog's strings have the escapes that are needed here

    return f"""
global(workDirectory={quoted(folder)})
module(load="imuxsock" SysSock.Use="off")
module(load="omprog")
template(name="line" type="string" string="%rawmsg%\\n")
main_queue(queue.type="FixedArray" queue.size="{lines + QUEUE_SLACK}" queue.workerThreads="1")
input(type="imuxsock" Socket={quoted(folder / "log")} RateLimit.Interval="0")
action(type="omprog" binary={quoted(" ".join(command))} output="/dev/stderr"
       template="line" action.resumeRetryCount="-1" action.resumeInterval="1"
       confirmMessages="on" useTransactions="{"on" if program.transactions else "off"}")
if $rawmsg == "{MARK.decode()}" then {{
    action(type="omfile" template="line" file={quoted(folder / "answered")})
}}
"""


def enter(rsyslogd: Child, path: Path) -> socket.socket:
    """A socket that is connected to the one that rsyslogd reads, as soon as it does."""
    entrance = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    deadline = time.monotonic() + PATIENCE_S
    while entrance.connect_ex(str(path)) != 0:
        if time.monotonic() > deadline or rsyslogd.has_ended():
            entrance.close()
            raise BenchError("rsyslogd does not listen")
        time.sleep(LOOK_EVERY_S)
    return entrance


# ---- full speed and a steady rate -----------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """How fast something went, and what CPU it took."""

    rate: float  # lines a second
    cpu_percent: float  # of a core
    cpu_us: float  # a line


def exchange(bench: Bench, program: Program, lines: int, lines_a_second: int) -> Run:
    """Log lines at a rate, and see how long it takes until all of them are answered."""
    with run_by_rsyslog(bench, program, lines) as (dialogue, pid):
        settle(pid, QUIET_S, SETTLE_AT_MOST_S)
        before_ns, start_ns = cpu_ns(pid), time.monotonic_ns()
        write_paced(bench, dialogue.entrance, lines_a_second, 1, lines)
        passed_ns = dialogue.mark() - start_ns
        used_ns = cpu_ns(pid) - before_ns
    return Run(
        rate=lines / passed_ns * 1e9,
        cpu_percent=used_ns / passed_ns * 100,
        cpu_us=used_ns / lines / 1e3,
    )


def sync_only(bench: Bench) -> Run:
    """What the disk lets a program do that brings every line to it, and does nothing else."""
    start_s, before_s = time.monotonic(), time.process_time()
    rate = sync_rate(bench.tools.folder)
    used, passed_s = time.process_time() - before_s, time.monotonic() - start_s
    return Run(rate, used / passed_s * 100, used / (rate * passed_s) * 1e6)


def throughput(bench: Bench) -> Section:
    """As fast as rsyslogd and the program go, or the disk where there is a spool."""
    jobs = {
        program.name: partial(
            exchange, bench, program, int(bench.lines * program.share), FULL_SPEED
        )
        for program in PROGRAMS
    }
    taken = interleave("omprog", bench.runs, {**jobs, DISK: partial(sync_only, bench)})
    rates = {name: median(run.rate for run in runs) for name, runs in taken.items()}
    comparisons = [
        (PLAIN, BARE.name, TARGET),
        (PLAIN_TX, BARE_TX.name, TARGET),
        (SPOOL, DISK, None),
        (SPOOL_TX, DISK, None),
    ]
    rows = [
        at_least(ours.name, rates[ours.name], peer, rates[peer], times, report.rate)
        for ours, peer, times in comparisons
    ]
    details = [spread(name, runs) for name, runs in taken.items()]
    return Section("rsyslog's omprog, every message confirmed", rows, [*details, *NOTES])


def spread(name: str, runs: list[Run]) -> str:
    """The slowest, middle and fastest run of a program, and what they cost."""
    rates = [run.rate for run in runs]
    cpu_us = median(run.cpu_us for run in runs)
    return (
        f"{name}: {report.rate(median(rates))} ({report.rate(min(rates))} to "
        f"{report.rate(max(rates))}), CPU a line {report.cpu_us(cpu_us)}"
    )


def cpu(bench: Bench) -> Section:
    """CPU of the program at a steady rate; where that is too much for it, at what it reached."""
    lines = int(PACED_RATE * PACED_S)
    jobs = {
        program.name: partial(exchange, bench, program, lines, PACED_RATE) for program in PROGRAMS
    }
    taken = interleave("omprog, CPU", bench.runs, jobs)
    used = {name: median(run.cpu_percent for run in runs) for name, runs in taken.items()}
    rows = []
    for ours, bare in ((PLAIN, BARE), (SPOOL, BARE), (PLAIN_TX, BARE_TX), (SPOOL_TX, BARE_TX)):
        reached = median(run.rate for run in taken[ours.name])
        what = ours.name + (f": {report.rate(reached)}" if reached < KEPT * PACED_RATE else "")
        figures = (used[ours.name], bare.name, used[bare.name])
        rows.append(at_most(what, *figures, None, report.percent))
    details = [
        "CPU of the program with all its threads, while the C writer logs a line at a time; "
        "where a rate is named, rsyslog's queue grew meanwhile, since no more was reached.",
        "rsyslog makes a transaction of what it finds in its queue: a few lines here, hundreds "
        "at full speed.",
    ]
    return Section(f"rsyslog's omprog: CPU at {PACED_RATE:,} lines/s", rows, details)


#: How the figures of both sections came about.
NOTES = (
    'rsyslogd runs each program with confirmMessages="on", from the one worker of its main '
    "queue, and has the lines from the C writer through its input socket. Lines a second are "
    "those from the start of the writer to the answer to the last one, for all alike as rsyslog "
    "has it. CPU is that of the program, not of rsyslogd.",
    "The bare loop (answer.py) reads a line and writes the answer, and ships nothing. Beside "
    "those that ship, the sink and libzmq's threads at both ends have to share the cores, too.",
    f"{DISK}: a page in the same folder, again and again. --spool does as much once a message, "
    "and in transactions once a commit.",
)

SECTIONS: dict[str, Callable[[Bench], Section]] = {"omprog": throughput, "omprog-cpu": cpu}

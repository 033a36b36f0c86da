"""Programs of a real rsyslogd are killed, everyone else is stopped and goes on: nothing is lost."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.omprog.helpers import BEGIN, BOTH_WAYS, COMMIT
from tests.omprog.logger import Logger, numbers_of
from tests.support.aliases import Ship
from tests.support.programs import PRINTER
from tests.support.waiting import wait_until


class Printer:
    """tests/support/pull_printer.py: a collector that can be stopped, and goes on."""

    def __init__(self, folder: Path) -> None:
        self._printed = folder / "printed"
        with open(self._printed, "wb") as printed:
            self.process = subprocess.Popen(
                [sys.executable, PRINTER, "--bind", "tcp://127.0.0.1:*"],
                stdout=printed,
                stderr=subprocess.PIPE,
            )
        assert self.process.stderr
        self.endpoint = self.process.stderr.readline().decode().strip()
        assert self.endpoint.startswith("tcp://"), self.process.stderr.read()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def received(self) -> list[bytes]:
        """What has come so far, a message each."""
        return self._printed.read_bytes().split(b"\n")[:-1]

    def close(self) -> None:
        assert self.process.stderr
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture
def printer(tmp_path: Path) -> Iterator[Printer]:
    printer = Printer(tmp_path)
    yield printer
    printer.close()


def kill_at_any_moment(pid: int) -> str:
    """Kill a program with -9; returns when that was, or "" where it had ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return ""
    return "at any moment"


def kill_at_a_question(pid: int) -> str:
    """Kill a program with -9 if it has not read yet what it is asked; returns what that is.

    What comes before it was answered. "" where it is not asked anything just now.
    """
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        stdin = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, stdin)
        # If it had just answered, rsyslogd comes with the next message.
        if select.select([stdin], [], [], 0.02)[0] and (question := os.read(stdin, 65536)):
            os.kill(pid, signal.SIGKILL)
            return {BEGIN: "at a begin", COMMIT: "at a commit"}.get(question.strip(), "at a line")
    return ""


# Something for rsyslogd to save when it is stopped, and to go on with. rsyslog 8.2302 loses up to a
# batch a worker, whatever the program is, where it has to cancel workers: where all of the queue is
# on its disk (workers of that part are given no time to end), and where a program has just died.
# So before it is stopped, all is drained and all programs live, and what is logged then fits in
# memory. With queue.type="Disk" it loses nothing: there it is stopped at any moment.
DISK_ASSISTED = """queue.type="LinkedList" queue.highWatermark="2500" queue.lowWatermark="500" """
ON_DISK = """queue.type="Disk" """
QUEUE = """queue.filename="ship" queue.size="200000" queue.timeoutEnqueue="600000"
         queue.saveOnShutdown="on" queue.timeoutActionCompletion="10000" closeTimeout="2000"
         queue.workerThreads="{workers}" queue.workerThreadMinimumMessages="100" """
BURST = 1000  # messages
DRAINED_S = 80.0
MOST_CRASHES = 3  # of rsyslogd
# Messages that may come again after a kill: SNDHWM and what libzmq writes at once; and what
# rsyslog repeats, a batch.
REPEATED_BY_A_KILL = 1000 + 8192 // 40 + 128


def send_to(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those that still are."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class RsyslogdHangs(Exception):
    """It has something for programs, and asks none."""


class ProgramHangs(Exception):
    """It did not answer; one that was started anew did."""


class Chaos:
    """Numbers are logged while programs are killed, and everyone else is stopped and goes on.

    rsyslogd 8.2302 sometimes crashes then (SIGSEGV in a worker of its disk-assisted queue, a double
    free), or hangs, and loses what it had in memory. That is its own fault: it is started again,
    and all begins anew.
    """

    def __init__(self, rsyslogd: Logger, printer: Printer, is_rude: bool, seed: int) -> None:
        """`is_rude`: rsyslogd is stopped even if programs have just been killed."""
        self.first = 0  # number since it began, or rsyslogd has crashed
        self.logged = 0
        self.killed: collections.Counter[str] = collections.Counter()
        self._missing = 0  # numbers that died in rsyslogd's main queue
        self._rsyslogd = rsyslogd
        self._printer = printer
        self._is_rude = is_rude
        self._rng = random.Random(seed)

    def run(self, count: int, kills: int) -> None:
        """Log `count` numbers, with so many kills, and wait until all are answered."""
        for _ in range(MOST_CRASHES):
            try:
                self._run(count, kills)
                self._wait_until_drained()
                return
            except RsyslogdHangs:
                self._rsyslogd.kill()
            except (AssertionError, OSError):
                if not self._rsyslogd.has_crashed(within_s=5):
                    raise
            self._begin_anew()
        raise AssertionError("rsyslogd crashes all the time")

    def _wait_until_drained(self) -> None:
        """Where that takes too long, new programs tell who is stuck: an old one, or rsyslogd."""
        try:
            self._rsyslogd.wait_until_drained(DRAINED_S)
            return
        except AssertionError:
            if self._rsyslogd.has_crashed(within_s=5):
                raise
        send_to(self._rsyslogd.programs(), signal.SIGKILL)
        with contextlib.suppress(AssertionError):
            self._rsyslogd.wait_until_drained(DRAINED_S)
            raise ProgramHangs
        raise RsyslogdHangs

    def _begin_anew(self) -> None:
        print("rsyslogd has crashed by itself, or hangs: once more")
        self._printer.go_on()
        send_to(self._rsyslogd.programs(), signal.SIGCONT)
        self._rsyslogd.wait_for_programs()
        for file in self._rsyslogd.folder.glob("ship.*"):
            file.unlink()
        self._missing = self.logged - self._rsyslogd.count_queued()
        self.first = self.logged
        self.killed.clear()
        self._rsyslogd.start()

    def _run(self, count: int, kills: int) -> None:
        rsyslogd, printer = self._rsyslogd, self._printer
        burst = BURST if self._is_rude else 2 * BURST
        part = (count - 2 * burst) // kills
        for step in range(kills):
            self.log(part)
            self.kill(kill_at_any_moment if step % 3 else kill_at_a_question)
            if step in (kills // 6, 4 * kills // 6):
                printer.stop()
            if step in (2 * kills // 6, 5 * kills // 6):
                printer.go_on()
            if step == kills // 2:
                self.restart(rsyslogd.signal_rsyslogd)
            if step == 5 * kills // 6 - 1:  # the printer is stopped as well
                self.restart(rsyslogd.signal_all)
        self.log(max(count - (self.logged - self.first), 1))

    def log(self, count: int) -> None:
        self._rsyslogd.log_numbers(range(self.logged, self.logged + count))
        self.logged += count

    def kill(self, how: Callable[[int], str]) -> None:
        """Kill a program when some time has passed."""
        time.sleep(self._rng.uniform(0, 0.2))
        killed = ""
        while not killed:
            tries_until = time.monotonic() + 0.2
            while not killed and time.monotonic() < tries_until:
                programs = wait_until(self._rsyslogd.programs, "there is a program")
                killed = how(self._rng.choice(sorted(programs)))
            if not killed:
                self.log(200)  # they have run out of work
        self.killed[killed] += 1

    def restart(self, send: Callable[[signal.Signals], None]) -> None:
        """Stop rsyslogd in the middle of its work, but with an empty main queue; start it again.

        Its programs do nothing for a moment, so that there is work.
        """
        rsyslogd = self._rsyslogd
        if not self._is_rude:
            self.log(BURST)  # to which the last program that was killed is missed
            self._wait_until_drained()
        programs = rsyslogd.programs()
        send_to(programs, signal.SIGSTOP)
        self.log(BURST)
        queued = self.logged - self._missing
        wait_until(lambda: rsyslogd.count_queued() == queued, "the main queue is empty")
        send(signal.SIGTERM)
        time.sleep(0.1)  # ten times as long as it waits for its queue: the rest will be saved
        send_to(programs, signal.SIGCONT)
        assert rsyslogd.wait() == 0, rsyslogd.said()
        assert list(rsyslogd.folder.glob("ship.*")), "nothing was left to be saved"
        rsyslogd.start()


@pytest.fixture
def check_chaos(
    tmp_path: Path, spool: str, asking_logger: Callable[..., Logger], printer: Printer, ship: Ship
) -> Callable[..., None]:
    """Makes a chaos, and checks that every number arrives in spite of it."""

    def check(count: int, kills: int, workers: int, queue: str, transactions: bool) -> None:
        parameters = queue + QUEUE.format(workers=workers)
        rsyslogd = asking_logger(printer.endpoint, f"--spool {spool}", parameters, transactions)
        chaos = Chaos(rsyslogd, printer, queue == ON_DISK, seed=count + transactions)
        began_at = time.monotonic()
        chaos.run(count, kills)
        rsyslogd.terminate()
        rsyslogd.wait_for_programs()
        last = ship("--connect", printer.endpoint, "--spool", spool).finish(b"")
        assert (last.status, last.stderr) == (0, "")
        everything = set(range(chaos.first, chaos.logged))
        with contextlib.suppress(AssertionError):  # below is said what is lost
            wait_until(lambda: everything <= set(numbers_of(printer.received())), "")
        took_s = time.monotonic() - began_at

        received = [number for number in numbers_of(printer.received()) if number >= chaos.first]
        times = collections.Counter(received)
        lost = sorted(everything - set(times))
        repeated = sum(times.values()) - len(times)
        killed = ", ".join(f"{times} {how}" for how, times in chaos.killed.items())
        print(f"{len(everything)} messages, killed {killed}; {took_s:.1f} s")
        print(f"{len(lost)} lost; {repeated} repeated; {last.processed} sent by the last start")
        assert not lost, rsyslogd.said()
        assert sum(chaos.killed.values()) == kills
        assert repeated <= (kills + 4 * workers) * REPEATED_BY_A_KILL
        assert os.listdir(spool) == []
        assert not re.search("Traceback|damaged|cannot", rsyslogd.output())
        assert "returned:" not in rsyslogd.reported()

    return check


@pytest.mark.long
@BOTH_WAYS
@pytest.mark.timeout(360)
def test_nothing_is_lost_though_programs_are_killed_and_everyone_is_stopped(
    transactions: bool, check_chaos: Callable[..., None]
) -> None:
    """A small part of the long one."""
    check_chaos(6_000, 14, 4, DISK_ASSISTED, transactions)


@BOTH_WAYS
@pytest.mark.soak
@pytest.mark.parametrize("queue", [DISK_ASSISTED, ON_DISK], ids=["disk-assisted", "disk"])
@pytest.mark.parametrize("workers", [1, 4])
def test_nothing_of_much_is_lost_though_programs_are_killed_and_everyone_is_stopped(
    workers: int, queue: str, transactions: bool, check_chaos: Callable[..., None]
) -> None:
    check_chaos(50_000, 24 if workers == 1 else 60, workers, queue, transactions)

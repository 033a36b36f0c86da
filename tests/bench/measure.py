"""What the bench measures with: child processes, and what the kernel counts about them."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Callable, TypeVar

#: How long a child may take to end when nothing is left for it to do.
PATIENCE_S = 60.0
#: How often the counters are read while there is no event to wait for.
LOOK_EVERY_S = 0.05
#: How long, and in pieces of how many bytes, the disk is asked to write.
SYNC_FOR_S = 0.5
SYNC_PAGE = 8192

Self = TypeVar("Self", bound="Child")
Key = TypeVar("Key")
Result = TypeVar("Result")


class BenchError(Exception):
    """Something did not do its work, so that there is nothing to measure."""


class Child:
    """A process under measurement. As a context manager it leaves nothing behind.

    Its stderr goes to a file, and is shown if it fails.

    Args:
        name: what messages call it; also names the file, so no two at once share it.
        command: the program and its arguments.
        folder: where the file is put.
        stdin, stdout: as for subprocess.Popen.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
    ) -> None:
        self.name = name
        self._log = folder / f"{name.replace(' ', '-')}.stderr"
        self.started_ns = time.monotonic_ns()
        self.ended_ns = 0
        #: CPU time of all its threads, user and system, in seconds; known once it has ended.
        self.cpu_s = 0.0
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=stdin, stdout=stdout, stderr=log, env=environment()
            )
        self.pid = self.process.pid
        # To wait with a limit, and to send signals that can hit nobody else.
        self._pidfd = os.pidfd_open(self.pid)

    def wait(self) -> None:
        """Wait until it has ended by itself.

        Raises:
            BenchError: it ended with a status other than 0, or not within PATIENCE_S.
        """
        self._reap()
        if self.process.returncode != 0:
            raise BenchError(f"{self.name}: status {self.process.returncode}: {self.said()}")

    def stop(self) -> None:
        """End it by SIGTERM and wait until it has."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
        self._reap()

    def has_ended(self) -> bool:
        """Whether it has."""
        return bool(select.select([self._pidfd], [], [], 0)[0])

    def said(self) -> str:
        """What it has written to stderr so far."""
        return self._log.read_text(errors="replace").strip()

    def _reap(self) -> None:
        # The cost of a child is told to the one that waits for it: not Popen.wait().
        if not select.select([self._pidfd], [], [], PATIENCE_S)[0]:
            raise BenchError(f"{self.name} does not end: {self.said()}")
        _, status, usage = os.wait4(self.pid, 0)
        self.ended_ns = time.monotonic_ns()
        self.cpu_s = usage.ru_utime + usage.ru_stime
        self.process.returncode = os.waitstatus_to_exitcode(status)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.returncode is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._reap()
        os.close(self._pidfd)
        if self.process.stdout:
            self.process.stdout.close()


def environment() -> dict[str, str]:
    """Our environment without the variables that are options of our programs."""
    ours = ("ZMQPUSH_", "ZMQPULL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


# ---- what the kernel knows about a running process ------------------------------------------


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a running process so far, in nanoseconds."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


def wake_ups(pid: int) -> int:
    """How often threads of a running process got a CPU so far: its context switches."""
    tasks = Path(f"/proc/{pid}/task").glob("*/status")
    return sum(
        int(count)
        for task in tasks
        for count in re.findall(r"voluntary_ctxt_switches:\s+(\d+)", task.read_text())
    )


def children(pid: int) -> list[int]:
    """The pids of the children of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # proc(5): the name, in brackets, then the state and the parent.
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.parent.name))
    return found


def memory_bytes(pid: int, field: str) -> int:
    """VmRSS (resident now) or VmHWM (the most it ever was) of a running process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    if not found:
        raise BenchError(f"no {field} in /proc/{pid}/status")
    return int(found.group(1)) * 1024


def settle(pid: int, quiet_s: float, at_most_s: float) -> None:
    """Wait until a process has slept for a while, or, if it never does, at most so long."""
    deadline = time.monotonic() + at_most_s
    before, since = wake_ups(pid), time.monotonic()
    while time.monotonic() < min(deadline, since + quiet_s):
        time.sleep(LOOK_EVERY_S)
        now = wake_ups(pid)
        if now != before:
            before, since = now, time.monotonic()


# ---- the disk -------------------------------------------------------------------------------


def disk_bytes(folder: Path) -> int:
    """What the files in a folder take on the disk; 0 where there is no such folder."""
    return sum(file.stat().st_blocks * 512 for file in folder.glob("*"))


def sync_rate(folder: Path) -> float:
    """How often a second a page can be written and brought to the disk under a folder.

    In a file that has its size already, as a database's log has most of the time: then
    fdatasync(2) need not write where the page is.
    """
    page, pages = os.urandom(SYNC_PAGE), 256
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.write(page * pages)
        os.fsync(file.fileno())
        start, count = time.monotonic(), 0
        while time.monotonic() < start + SYNC_FOR_S:
            os.pwrite(file.fileno(), page, count % pages * SYNC_PAGE)
            os.fdatasync(file.fileno())
            count += 1
        return count / (time.monotonic() - start)


# ---- runs -----------------------------------------------------------------------------------


def interleave(
    title: str, runs: int, jobs: Mapping[Key, Callable[[], Result]]
) -> dict[Key, list[Result]]:
    """Do each job in turn, and that `runs` times, after a first turn that does not count.

    What drifts on the machine (its clock speed, its neighbours) then hits all jobs alike.
    """
    results: dict[Key, list[Result]] = {name: [] for name in jobs}
    for run in range(runs + 1):
        say(f"{title}: " + (f"run {run} of {runs}" if run else "warm-up"))
        for name, job in jobs.items():
            result = job()
            if run:
                results[name].append(result)
    return results


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def say(text: str) -> None:
    """Tell who waits what is being done."""
    print(text, file=sys.stderr, flush=True)

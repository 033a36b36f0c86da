"""What /proc tells of a process (proc(5)), and waiting until it tells that."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

from tests.support.waiting import wait_until

SWITCHES = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")


def proc_status(pid: int, name: str, task: int | None = None) -> str:
    """A field of /proc/PID/status, or of one of its threads."""
    status = Path(f"/proc/{pid}/task/{task or pid}/status").read_text()
    return re.search(rf"^{name}:\s+(.*)$", status, re.M)[1]  # type: ignore[index]


def memory(pid: int) -> int:
    """Bytes of memory in use."""
    return int(proc_status(pid, "VmRSS").split()[0]) * 1024


def highest_memory(pid: int) -> int:
    """Bytes of memory that were in use at most."""
    return int(proc_status(pid, "VmHWM").split()[0]) * 1024


def cpu_s(pid: int) -> float:
    """Processor time that it has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def exact_cpu_s(pid: int) -> float:
    """The same, of all its threads, without rounding (Documentation/scheduler/sched-stats)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def has_open(pid: int, path: str) -> bool:
    """Whether it has the file at `path` open."""
    folder = Path(f"/proc/{pid}/fd")
    with contextlib.suppress(FileNotFoundError):  # one was closed meanwhile
        return any(os.readlink(link) == path for link in folder.iterdir())
    return False


# ---- signals ----------------------------------------------------------------------------------


def signals_in(pid: int, field: str) -> set[signal.Signals]:
    """A set of signals in /proc/PID/status, such as SigCgt or ShdPnd."""
    bits = int(proc_status(pid, field), 16)
    return {number for number in signal.Signals if bits >> (number - 1) & 1}


def has_signal(pid: int, field: str, number: signal.Signals) -> bool:
    """Whether a set of signals in /proc/PID/status has that one."""
    return number in signals_in(pid, field)


def acts_on(pid: int, number: signal.Signals) -> bool:
    """Whether it would act on that signal, were it sent now."""
    return has_signal(pid, "SigCgt", number) and not has_signal(pid, "SigBlk", number)


def has_begun(pid: int) -> bool:
    """Whether Python has come to the first lines of a program of ours, which hold signals back.

    Before that, glibc 2.43 holds all of them back for moments.
    """
    blocked = signals_in(pid, "SigBlk")
    holds_some_back = signal.SIGTERM in blocked and signal.SIGUSR2 not in blocked
    return holds_some_back or has_signal(pid, "SigCgt", signal.SIGTERM)


def wait_until_acts_on(pid: int, number: signal.Signals) -> None:
    """Wait until it would act on that signal."""
    wait_until(lambda: acts_on(pid, number), f"acts on {number.name}")


def wait_until_taken(pid: int, number: signal.Signals) -> None:
    """Wait until it has taken a signal that was sent to it: a second one is then another one."""
    wait_until(lambda: not has_signal(pid, "ShdPnd", number), f"{number.name} is taken")


def wait_until_stopped(pid: int) -> None:
    """Wait until all its threads are: only then is its parent told."""
    tasks = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    wait_until(
        lambda: all(proc_status(pid, "State", task).startswith("T") for task in tasks), "stopped"
    )


# ---- rest -------------------------------------------------------------------------------------


def switches(pid: int) -> dict[int, int]:
    """How often each thread was taken off the processor, because it waited or for another."""
    counts = {}
    for task in map(int, os.listdir(f"/proc/{pid}/task")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            counts[task] = sum(int(proc_status(pid, name, task)) for name in SWITCHES)
    return counts


def wakeups(pid: int, for_s: float) -> tuple[int, int]:
    """How often the main thread, and all together, woke up in so many seconds."""
    before = switches(pid)
    time.sleep(for_s)
    woken = {task: count - before.get(task, 0) for task, count in switches(pid).items()}
    return woken[pid], sum(woken.values())


def wait_until_asleep(pid: int, for_s: float = 0.15) -> None:
    """Wait until the main thread has slept that long without waking up: it has done its work."""

    def slept() -> bool:
        main, _ = wakeups(pid, for_s)
        return not main and proc_status(pid, "State").startswith("S")

    wait_until(slept, "asleep")


def wait_until_woken(pid: int, times: int) -> None:
    """Wait until the main thread has woken up so many times more."""
    before = switches(pid)[pid]
    wait_until(lambda: switches(pid)[pid] >= before + times, f"woken up {times} times")


def cpu_s_in(pid: int, for_s: float) -> float:
    """Processor time, of all its threads, that it uses in so many seconds."""
    before = exact_cpu_s(pid)
    time.sleep(for_s)
    return exact_cpu_s(pid) - before


def wait_until_at_rest(pid: int) -> None:
    """Wait until no thread of it wakes up any more."""
    wait_until(lambda: not wakeups(pid, 0.3)[1], "at rest")

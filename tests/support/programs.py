"""Our programs as processes."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.net import unread
from tests.support.proc import has_begun, wait_until_acts_on, wait_until_asleep
from tests.support.waiting import DEADLINE_S, wait_until

TOP = Path(__file__).resolve().parent.parent.parent
LISTENS = "zmqpull.py: bound to "  # what a collector says first, wherever it is
PRINTER = TOP / "tests/support/pull_printer.py"


class Shipper:
    """A zmqpush.py process; stdin, stdout and stderr are pipes of bytes unless told otherwise."""

    def __init__(self, *arguments: str, program: str = "zmqpush.py", **popen: Any) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, str(TOP / program), *arguments]
        self.process = subprocess.Popen(command, **{**pipes, **popen})
        self.pid = self.process.pid

    def write(self, data: bytes) -> None:
        """Write all of `data` into its standard input."""
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def end_input(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    def finish(self, data: bytes | None = None, deadline_s: float = DEADLINE_S) -> Result:
        """Write `data`, end its input, wait for its end."""
        if self.process.stdin and self.process.stdin.closed:
            self.process.stdin = None  # communicate() would flush it
        stdout, stderr = self.process.communicate(data, timeout=deadline_s)
        return Result(self.process.returncode, stdout or b"", stderr or b"", self.pid)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def read_stderr_line(self) -> str:
        """The next line on its stderr, but where a collector listens; blocks until there is one."""
        assert self.process.stderr
        line = bytes(self.process.stderr.readline()).decode()
        return self.read_stderr_line() if line.startswith(LISTENS) else line

    def stop(self) -> None:
        """Kill it if it still runs."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


class Result:
    """How a program ended."""

    def __init__(self, status: int, stdout: bytes, stderr: bytes, pid: int) -> None:
        self.status = status
        self.stdout = stdout.decode()
        lines = stderr.decode().splitlines(keepends=True)
        self.stderr = "".join(line for line in lines if not line.startswith(LISTENS))
        self.pid = pid

    @property
    def processed(self) -> int:
        """The count in the summary, whose form is checked."""
        summary = re.fullmatch(
            r"Processed (\d+) messages in \d+\.\d{4}ms\. Tagged with @pid:(\d+)\n", self.stdout
        )
        assert summary, (self.stdout, self.stderr)
        assert int(summary[2]) == self.pid
        return int(summary[1])


def without_state(said: str) -> str:
    """What it said, but for the lines of its state: on a slow machine no collector was in time."""
    return re.sub(r"^zmqpush\.py: \S+Z (no collector at|connected;) .*\n", "", said, flags=re.M)


def wait_until_read(shipper: Shipper) -> None:
    """Wait until it has taken all that was written, and sleeps: it has done its work."""
    assert shipper.process.stdin
    descriptor = shipper.process.stdin.fileno()
    wait_until(lambda: not unread(descriptor), "the pipe is empty")
    wait_until_asleep(shipper.pid)


def wait_until_connected(shipper: Shipper, count: int) -> None:
    """Ask it for its counters until it says so. They are lines on stderr."""
    wait_until_acts_on(shipper.pid, signal.SIGUSR1)

    def is_connected() -> bool:
        shipper.signal(signal.SIGUSR1)
        return shipper.read_stderr_line().endswith(f" {count} connected\n")

    wait_until(is_connected, f"{count} connected")


def wait_for_first_lines(shipper: Shipper) -> None:
    """Wait until Python has come to our first lines; not a moment more."""
    while not has_begun(shipper.pid):
        assert shipper.process.poll() is None

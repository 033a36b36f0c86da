"""What the tests share: the programs as processes, and collectors that are not ours.

Nothing here sleeps: who waits, waits for an event, with a deadline after which the test fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

TOP = Path(__file__).resolve().parent.parent
DEADLINE_S = 20.0

# What a background job of a shell ignores, its children would ignore as well.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything can be installed (CI), a skip hides a gap: it is a failure there."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, but CI=true: {report.longrepr}"
    return report


def wait_until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Look at `condition` until it holds, and return what it gave; fail after the deadline.

    For what cannot be waited for otherwise, such as the state of a process in /proc.
    """
    ends_at = time.monotonic() + deadline_s
    while not (result := condition()):
        assert time.monotonic() < ends_at, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
    return result


def proc_status(pid: int, name: str, task: int | None = None) -> str:
    """A field of /proc/PID/status, or of one of its threads (proc(5))."""
    status = Path(f"/proc/{pid}/task/{task or pid}/status").read_text()
    return re.search(rf"^{name}:\s+(.*)$", status, re.M)[1]  # type: ignore[index]


def wait_until_stopped(pid: int) -> None:
    """Wait until all its threads are: only then is its parent told."""
    tasks = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    wait_until(
        lambda: all(proc_status(pid, "State", task).startswith("T") for task in tasks), "stopped"
    )


class Collector:
    """A PULL socket of pyzmq in this process, bound to a free port unless told otherwise."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:*", **sockopts: int) -> None:
        self._context = zmq.Context()
        self._pull = self._context.socket(zmq.PULL)
        self._pull.setsockopt(zmq.IPV6, 1)
        for name, value in sockopts.items():
            self._pull.setsockopt(getattr(zmq, name), value)
        self._pull.bind(endpoint)
        self.endpoint = self._pull.get_string(zmq.LAST_ENDPOINT)

    def receive(self, count: int, deadline_s: float = DEADLINE_S) -> list[bytes]:
        """The next `count` messages, each of one frame."""
        messages: list[bytes] = []
        ends_at = time.monotonic() + deadline_s
        while len(messages) < count:
            left_ms = int((ends_at - time.monotonic()) * 1000)
            assert left_ms > 0, f"{len(messages)} of {count} messages came in {deadline_s} s"
            if self._pull.poll(left_ms):
                frames = self._pull.recv_multipart()
                assert len(frames) == 1, frames
                messages.append(frames[0])
        return messages

    def events(self, count: int, deadline_s: float = DEADLINE_S) -> list[dict[str, Any]]:
        """The next `count` messages, read as JSON by a strict parser."""
        return [strict_json(message) for message in self.receive(count, deadline_s)]

    def texts(self, count: int, deadline_s: float = DEADLINE_S) -> list[str]:
        """The `message` of the next `count` events."""
        return [event["message"] for event in self.events(count, deadline_s)]

    def is_silent(self, for_ms: int = 100) -> bool:
        """Whether nothing comes for so long."""
        return self._pull.poll(for_ms) == 0

    def close(self) -> None:
        self._context.destroy(linger=0)


def strict_json(text: bytes) -> Any:
    """What JSON says, in UTF-8, without Python's NaN and Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text.decode("utf-8", "strict"), parse_constant=refuse)


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
        """The next line on its stderr; blocks until there is one."""
        assert self.process.stderr
        return bytes(self.process.stderr.readline()).decode()

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
        self.stderr = stderr.decode()
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


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a free port."""
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def collect() -> Iterator[Callable[..., Collector]]:
    """Makes collectors; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(endpoint: str = "tcp://127.0.0.1:*", **sockopts: int) -> Collector:
            collector = Collector(endpoint, **sockopts)
            stack.callback(collector.close)
            return collector

        yield make


@pytest.fixture
def ship() -> Iterator[Callable[..., Shipper]]:
    """Starts shippers; all are killed at the end, if they still run."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **settings: Any) -> Shipper:
            shipper = Shipper(*arguments, **settings)
            stack.callback(shipper.stop)
            return shipper

        yield start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that may take longest: else all would have to wait for them at the end."""

    def may_take_s(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return float(mark.args[0]) if mark else 0.0

    items.sort(key=may_take_s, reverse=True)

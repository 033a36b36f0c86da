"""Typed lines, and what a shell with job control does to the shipper: Ctrl-C, Ctrl-Z, fg, bg."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.push.inputs import SUMMARY, ZMQPUSH, is_nonblocking, numbers
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.proc import proc_status, wait_until_asleep, wait_until_stopped
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


CTRL_C, CTRL_D, CTRL_Z = b"\x03", b"\x04", b"\x1a"


def test_typed_lines_arrive_and_ctrl_d_ends(
    terminal: tuple[int, int], collector: Collector, ship: Ship
) -> None:
    user, program = terminal
    shipper = ship("-c", collector.endpoint, stdin=program)
    for text in ("one", "", "two"):
        os.write(user, text.encode() + b"\n")
        assert collector.texts(1) == [text]
        assert not is_nonblocking(program)
    os.write(user, b"three\nfour\nfi" + CTRL_D + b"ve" + CTRL_D + CTRL_D)
    assert collector.texts(3) == ["three", "four", "five"]
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 6, "")
    assert not is_nonblocking(program)


def test_lines_typed_before_the_start_arrive(
    terminal: tuple[int, int], collector: Collector, ship: Ship
) -> None:
    user, program = terminal
    os.write(user, b"one\ntwo\n" + CTRL_D)
    result = ship("-c", collector.endpoint, stdin=program).finish()
    assert collector.texts(2) == ["one", "two"]
    assert (result.status, result.processed, result.stderr) == (0, 2, "")


def test_hung_up_terminal_is_the_end_of_input(
    terminal: tuple[int, int], collector: Collector, ship: Ship
) -> None:
    user, program = terminal
    shipper = ship("-c", collector.endpoint, stdin=program)
    os.write(user, b"one\n")
    assert collector.texts(1) == ["one"]
    wait_until_asleep(shipper.pid)
    os.close(user)
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 1, "")


def test_terminal_that_has_hung_up_before_the_start_is_an_empty_input(
    terminal: tuple[int, int], collector: Collector, ship: Ship
) -> None:
    user, program = terminal
    os.close(user)
    result = ship("-c", collector.endpoint, stdin=program).finish()
    assert (result.status, result.processed, result.stderr) == (0, 0, "")


class Shell:
    """A shell with job control in a pseudo-terminal, as a user has it."""

    def __init__(self, user: int, program: int) -> None:
        self._user = user
        self._seen = ""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=program,
            stdout=program,
            stderr=program,
            env={**os.environ, "PS1": "ready$ ", "LC_ALL": "C", "HISTFILE": ""},
        )

    def type(self, keys: str | bytes) -> None:
        """Press these keys; a text is a command, ended by Enter."""
        os.write(self._user, keys.encode() + b"\n" if isinstance(keys, str) else keys)

    def expect(self, pattern: str) -> re.Match[str]:
        """Read what appears on the screen up to `pattern`."""
        ends_at = time.monotonic() + DEADLINE_S
        while not (match := re.search(pattern, self._seen)):
            left_s = ends_at - time.monotonic()
            assert left_s > 0, f"{pattern!r} is not in {self._seen!r}"
            if select.select([self._user], [], [], left_s)[0]:
                self._seen += os.read(self._user, 65_536).decode()
        self._seen = self._seen[match.end() :]
        return match

    def bring_back(self, pid: int) -> None:
        """`fg`, until the terminal belongs to that process again."""
        self.type("fg")
        self.expect(r"zmqpush.py -c .*\n")
        wait_until(lambda: os.tcgetpgrp(self._user) == os.getpgid(pid), "in the foreground")
        wait_until(lambda: not proc_status(pid, "State").startswith("T"), "going on")

    def end(self) -> None:
        """Kill it, and what it has left behind in its session."""
        if self.process.poll() is None:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and int(entry.name) != self.process.pid:
                    self._kill_if_mine(int(entry.name))
            self.process.kill()
            self.process.wait()

    def _kill_if_mine(self, pid: int) -> None:
        try:
            if os.getsid(pid) == self.process.pid:
                os.kill(pid, signal.SIGKILL)
        except OSError:  # it has ended by itself
            return


@pytest.fixture
def shell(terminal: tuple[int, int]) -> Iterator[Shell]:
    shell = Shell(*terminal)
    shell.expect(r"ready\$ ")
    yield shell
    shell.end()


@pytest.mark.long
def test_ctrl_z_stops_and_fg_goes_on(
    shell: Shell, terminal: tuple[int, int], collector: Collector
) -> None:
    _, program = terminal
    shell.type(f"{ZMQPUSH} -c {collector.endpoint}")
    shell.type("one")
    [event] = collector.events(1)
    assert event["message"] == "one"
    for text in ("two", "three"):
        shell.type(CTRL_Z)
        shell.expect(r"Stopped .*zmqpush.py")
        wait_until_stopped(event["@pid"])
        assert not is_nonblocking(program)
        shell.expect(r"ready\$ ")
        shell.bring_back(event["@pid"])
        shell.type(text)
        assert collector.texts(1) == [text]
    shell.type(CTRL_D)
    summary = shell.expect(SUMMARY.pattern)
    assert (summary[1], summary[2]) == ("3", str(event["@pid"]))
    shell.type("echo status $?")
    shell.expect("status 0")
    assert not is_nonblocking(program)


@pytest.fixture
def background(shell: Shell, fifo: Path, collector: Collector) -> int:
    """A shipper that has sent a line, is in the background, and was stopped for reading there.

    What was typed was for the shell, which has taken it: there is nothing to read any more.
    """
    shell.type(f"{ZMQPUSH} -c {collector.endpoint}")
    shell.type("one")
    [event] = collector.events(1)
    pid: int = event["@pid"]
    shell.type(CTRL_Z)
    shell.expect(r"Stopped .*zmqpush.py")
    shell.type("bg")
    shell.expect(r"zmqpush.py -c .* &\r\n")
    shell.type(f"cat {fifo}")  # the shell waits for that, and leaves to us what is typed
    writer = os.open(fifo, os.O_WRONLY)
    shell.type("echo for the shell")
    wait_until_stopped(pid)
    os.close(writer)
    shell.expect(r"Stopped .*zmqpush.py")  # the shell knows: else fg would not continue it
    shell.expect("for the shell\r\n")
    return pid


@pytest.mark.long
def test_fg_goes_on_after_it_was_in_the_background(
    background: int, shell: Shell, collector: Collector
) -> None:
    shell.bring_back(background)
    shell.type("two")
    assert collector.texts(1) == ["two"]
    shell.type(CTRL_D)
    assert shell.expect(SUMMARY.pattern)[1] == "2"


@pytest.mark.long
def test_ctrl_c_ends_it_after_it_was_in_the_background(background: int, shell: Shell) -> None:
    """It does not wait in a read for a line that the shell has taken."""
    shell.bring_back(background)
    wait_until_asleep(background)
    shell.type(CTRL_C)
    assert shell.expect(SUMMARY.pattern)[1] == "1"


@pytest.mark.long
def test_ctrl_c_ends_a_pipe_with_the_summary_and_the_shell_goes_on(
    shell: Shell, collector: Collector
) -> None:
    shell.type(f"while true; do seq 1 100 && sleep 1; done | {ZMQPUSH} -c {collector.endpoint}")
    assert collector.texts(100) == numbers(100)
    shell.type(CTRL_C)
    assert int(shell.expect(SUMMARY.pattern)[1]) in (100, 200)
    shell.expect(r"ready\$ ")
    shell.type("echo still here")
    shell.expect("still here\r\n")


@pytest.mark.long
def test_shipper_survives_the_hang_up_of_its_session_until_all_is_delivered(
    shell: Shell, terminal: tuple[int, int], tmp_path: Path, collect: Callable[..., Collector]
) -> None:
    user, _ = terminal
    endpoint = f"ipc://{tmp_path}/pull"
    shell.type(f"{ZMQPUSH} -c {endpoint} --stats 0.05")
    shell.type("one")
    shell.type("two")
    shell.expect("2 messages read")
    os.close(user)
    shell.process.wait(timeout=DEADLINE_S)
    assert collect(endpoint).texts(2) == ["one", "two"]

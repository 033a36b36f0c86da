"""A real rsyslogd for the tests, and one that collects with its own ZeroMQ module, imczmq.

Each runs in a directory of its own, with an input socket there: /dev/log and what the machine's
own syslog does are left alone. Each leads a process group, to which the programs that it starts
belong: that stands for the control group of a systemd unit.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.net import free_endpoint, untaken
from tests.support.programs import TOP
from tests.support.waiting import DEADLINE_S, wait_until

SBIN = "/usr/sbin"  # is not on every user's PATH
TEMPLATE = "RSYSLOG_SyslogProtocol23Format"  # of rsyslog: RFC 5424


def find_rsyslogd() -> str:
    """The path of rsyslogd; skips the test where there is none."""
    found = shutil.which("rsyslogd", path=os.pathsep.join((os.environ.get("PATH", ""), SBIN)))
    if not found:
        pytest.skip("rsyslogd is not installed (Debian: rsyslog rsyslog-czmq)")
    return found


def install_program(folder: Path) -> Path:
    """A zmqpush.py in `folder` that is the checkout's, run by the Python that runs the tests.

    The rsyslog directives of old take a path and no arguments.
    """
    program = folder / "zmqpush.py"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{TOP / 'zmqpush.py'}' \"$@\"\n")
    program.chmod(0o755)
    return program


def and_more(arguments: str) -> str:
    """`arguments` as they are written after others in `binary`, where there may be none.

    rsyslog 8.2608 takes a blank at the end of `binary` for a part of the last argument.
    """
    return f" {arguments}" if arguments else ""


class Rsyslogd:
    """A rsyslogd process with `configuration`; it is started by `start()`.

    What is written into `socket_path` as datagrams, it logs. `environment` is added to ours.
    """

    INPUT = """\
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{socket_path}")
"""

    def __init__(self, folder: Path, configuration: str, **environment: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.socket_path = folder / "log"
        self._said = folder / "rsyslogd.said"
        self._configuration = folder / "rsyslog.conf"
        self._configuration.write_text(
            f'global(workDirectory="{folder}")\n'
            + self.INPUT.format(socket_path=self.socket_path)
            + configuration
        )
        self._command = [find_rsyslogd(), "-f", str(self._configuration)]
        self._environment = {**os.environ, **environment}
        self.process: subprocess.Popen[bytes] | None = None
        self._groups: set[int] = set()  # of this process, and of earlier ones with programs left
        self._check()

    def _check(self) -> None:
        check = subprocess.run(
            [*self._command, "-N1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        words = check.stdout.decode(errors="replace")
        for line in words.splitlines():
            if "could not load module" in line:
                pytest.skip(f"a module is not installed (Debian: rsyslog rsyslog-czmq): {line}")
        assert check.returncode == 0, words

    def start(self) -> None:
        """Start it, perhaps once more, and wait until it takes messages."""
        self._groups = set(self._members().values())
        with open(self._said, "ab") as said:
            self.process = subprocess.Popen(
                [*self._command, "-n", "-iNONE"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=self._environment,
                start_new_session=True,
            )
        self._groups.add(self.process.pid)
        wait_until(lambda: self._is_ready() or not self._runs(), "rsyslogd is ready")
        assert self._runs(), self.said()

    def _runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def has_crashed(self, within_s: float = 0.0) -> bool:
        """Whether it is ended, or is so soon, by a fault of its own."""
        assert self.process
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within_s)
        return self.process.returncode in (-signal.SIGSEGV, -signal.SIGABRT)

    def _is_ready(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            return probe.connect_ex(str(self.socket_path)) == 0

    def said(self) -> str:
        """What rsyslogd had to say on its stderr."""
        return self._said.read_text(errors="replace") if self._said.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def log(self, *messages: bytes) -> None:
        """Log messages, each as syslog(3) would write it: `<PRI>TAG: TEXT`.

        Returns when rsyslogd has taken them all. Raises OSError where it is gone; then nobody
        knows which it took.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(DEADLINE_S)
            sender.connect(str(self.socket_path))
            for message in messages:
                sender.send(message)
            wait_until(lambda: untaken(sender) == 0, "rsyslogd takes what is logged")
            sender.connect(str(self.socket_path))  # the end of the other side empties it, too

    def programs(self) -> list[int]:
        """The pids of the programs that it has started, itself gone or not."""
        return [pid for pid, group in self._members().items() if pid != group]

    def program(self) -> int:
        """The pid of the only program, as soon as there is one."""
        (pid,) = wait_until(self.programs, "rsyslogd has started a program")
        return int(pid)

    def holds_open(self, file: str) -> bool:
        """Whether rsyslogd itself has `file` open; a pipe is called `pipe:[NUMBER]` (proc(5))."""
        links = []
        for descriptor in Path(f"/proc/{self.pid}/fd").glob("*"):
            with contextlib.suppress(OSError):  # it is closed meanwhile
                links.append(os.readlink(descriptor))
        return file in links

    def _members(self) -> dict[int, int]:
        """The processes of our groups, and the group of each."""
        members = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                fields = entry.read_text().rpartition(")")[2].split()  # proc(5), from the third on
                state, group, threads = fields[0], int(fields[2]), int(fields[17])
                # A dead process whose threads are still ending has its files open.
                if group in self._groups and (state not in "ZX" or threads > 1):
                    members[int(entry.parent.name)] = group
        return members

    def signal_rsyslogd(self, number: signal.Signals) -> None:
        """Send a signal to rsyslogd alone."""
        assert self.process
        self.process.send_signal(number)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to rsyslogd, where it still is, and to its programs, all at once."""
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for the end of rsyslogd; returns its status."""
        assert self.process
        return self.process.wait(deadline_s)

    def wait_for_programs(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait for the end of what it has started."""
        wait_until(lambda: not self.programs(), "its programs have ended", deadline_s)

    def terminate(self) -> None:
        """Stop rsyslogd, not its programs; returns when it has ended, which they may not have."""
        self.signal_rsyslogd(signal.SIGTERM)
        assert self.wait() == 0, self.said()

    def stop_unit(self) -> None:
        """Stop it by the rules of a systemd unit that says nothing of KillMode, such as Debian's.

        systemd.kill(5): SIGTERM to all at once, and SIGCONT, for those that are stopped. When
        rsyslogd has ended, SIGTERM to those that are left. (After 90 s SIGKILL; a test fails
        long before.)
        """
        self.signal_all(signal.SIGTERM)
        self.signal_all(signal.SIGCONT)
        assert self.wait() == 0, self.said()
        self.signal_all(signal.SIGTERM)
        self.wait_for_programs()

    def stop_unit_mixed(self) -> None:
        """Stop it by the rules of a unit with KillMode=mixed.

        SIGTERM to rsyslogd alone; when it has ended, SIGKILL to those that are left.
        """
        self.signal_rsyslogd(signal.SIGTERM)
        assert self.wait() == 0, self.said()
        self.signal_all(signal.SIGKILL)
        self.wait_for_programs()

    def kill(self) -> None:
        """Kill rsyslogd with -9, not its programs."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill all that is left; may be called again."""
        if self.process:
            self.signal_all(signal.SIGKILL)
            self.process.wait()
            self.wait_for_programs()


class Receiver(Rsyslogd):
    """A rsyslogd with a PULL socket bound to `endpoint`; it writes what comes into a file.

    Stopped in an orderly manner, imczmq of rsyslog 8.2302 crashes: it is always killed. What is in
    the file is whole, since omfile writes at the end of each batch.
    """

    INPUT = ""
    MODULE = 'module(load="imczmq")'

    def __init__(self, folder: Path) -> None:
        self.endpoint = free_endpoint()
        self._output = folder / "received"
        super().__init__(
            folder,
            f"""\
global(maxMessageSize="64k")
{self.MODULE}
template(name="whole" type="string" string="%rawmsg%\\n")
ruleset(name="write") {{ action(type="omfile" file="{self._output}" template="whole") }}
input(type="imczmq" endpoints="@{self.endpoint}" sockType="PULL" ruleset="write")
""",
        )

    def _is_ready(self) -> bool:
        host, port = self.endpoint[len("tcp://") :].split(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def received(self) -> list[bytes]:
        """What has come so far, a message each."""
        if not self._output.exists():
            return []
        return self._output.read_bytes().split(b"\n")[:-1]

    def wait_for(self, count: int, deadline_s: float = DEADLINE_S) -> list[bytes]:
        """Wait until so many messages have come in all; returns all that have."""
        received: list[bytes] = []

        def enough() -> bool:
            nonlocal received
            received = self.received()
            return len(received) >= count

        with contextlib.suppress(AssertionError):
            wait_until(enough, "", deadline_s)
        assert len(received) >= count, (
            f"{len(received)} of {count} messages came in {deadline_s} s: {received[-3:]}"
        )
        return received

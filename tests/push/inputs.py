"""What the tests of standard input share: numbered lines, flags, and the program in a shell."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

from tests.support.programs import TOP
from tests.support.waiting import DEADLINE_S

ZMQPUSH = f"{shlex.quote(sys.executable)} {shlex.quote(str(TOP / 'zmqpush.py'))}"
SUMMARY = re.compile(r"Processed (\d+) messages in \d+\.\d{4}ms\. Tagged with @pid:(\d+)\r?\n")


def numbers(count: int, start: int = 1) -> list[str]:
    """What `seq` prints."""
    return [str(number) for number in range(start, start + count)]


def in_lines(texts: list[str]) -> bytes:
    return "".join(text + "\n" for text in texts).encode()


def is_nonblocking(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK)


def summary_of(stdout: str) -> tuple[int, int]:
    """The count and the pid in the summary, which is all of `stdout`."""
    summary = SUMMARY.fullmatch(stdout)
    assert summary, stdout
    return int(summary[1]), int(summary[2])


def program(endpoint: str) -> str:
    """The beginning of a script in which `zmqpush.py` is the program, connected to `endpoint`."""
    return f'zmqpush.py() {{ {ZMQPUSH} -c {endpoint} "$@"; }}; '


@contextlib.contextmanager
def shell_script(script: str, endpoint: str) -> Iterator[subprocess.Popen[str]]:
    """A `script` that calls `zmqpush.py` and runs as a group; what is left of it is killed."""
    shell = subprocess.Popen(
        ["bash", "-c", program(endpoint) + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield shell
    finally:
        if shell.returncode is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.communicate()


def in_shell(script: str, endpoint: str) -> subprocess.CompletedProcess[str]:
    """Run a `script` that calls `zmqpush.py`, connected to `endpoint`, to its end."""
    with shell_script(script, endpoint) as shell:
        stdout, stderr = shell.communicate(timeout=2.5 * DEADLINE_S)
    return subprocess.CompletedProcess(script, shell.returncode, stdout, stderr)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


def reset(connection: socket.socket) -> None:
    """Close a TCP connection with RST, which is an error at the other end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()

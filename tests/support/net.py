"""Endpoints, and what the kernel's buffers hold."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

from tests.support.waiting import wait_until

NOBODY = "tcp://127.0.0.1:9"  # discard: no collector is there


def free_endpoint() -> str:
    """A TCP endpoint that nobody else takes, even while nobody listens there.

    The address, of the loopback net, is made of our pid, so that no other test run has it.
    """
    pid = os.getpid()
    host = f"127.{1 + (pid >> 16 & 0x7F)}.{pid >> 8 & 0xFF}.{pid & 0xFF}"
    with socket.create_server((host, 0)) as probe:
        return f"tcp://{host}:{probe.getsockname()[1]}"


def unread(descriptor: int) -> int:
    """The bytes in a pipe, seen from either end (pipe(7)), or that a terminal holds."""
    held = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", held)[0])


def untaken(sender: socket.socket) -> int:
    """The bytes (and what the kernel adds to them) that the other side has not read yet."""
    queued = fcntl.ioctl(sender, termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", queued)[0])


def established() -> Iterator[tuple[str, str, int, int]]:
    """Both ends of each TCP connection, and the bytes that wait at the first to be sent, or read.

    An end is as in proc(5): the address and the port in hexadecimal.
    """
    tables = [Path("/proc/net", name).read_text() for name in ("tcp", "tcp6")]
    for row in "".join(tables).splitlines():
        _, local, remote, state, queues, *_ = row.split()
        if state == "01":
            sent, _, received = queues.partition(":")
            yield local, remote, int(sent, 16), int(received, 16)


def kernel_holds(port: int) -> int:
    """Bytes on their way to that TCP port, in the buffers of both ends."""
    held = 0
    for local, remote, sent, received in established():
        held += sent * remote.endswith(f":{port:04X}")
        held += received * local.endswith(f":{port:04X}")
    return held


def wait_for_connections(port: int, count: int) -> None:
    """Wait until somebody has connected anew to that TCP port so many times."""

    def clients() -> set[str]:
        return {local for local, remote, *_ in established() if remote.endswith(f":{port:04X}")}

    before, seen = clients(), set[str]()

    def have_come() -> bool:
        seen.update(clients() - before)
        return len(seen) >= count

    wait_until(have_come, f"{count} connections")

"""Peers of the shipper that are more than a PULL socket in this process."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import zmq

from tests.support.proc import wait_until_stopped
from tests.support.programs import PRINTER, Shipper
from tests.support.waiting import DEADLINE_S

PullFrom = Callable[[str], "zmq.Socket[bytes]"]


class Printer:
    """tests/support/pull_printer.py: a collector that can be stopped and killed."""

    def __init__(self, endpoint: str, *within: str) -> None:
        self.process = subprocess.Popen(
            [*within, sys.executable, str(PRINTER), "--bind", endpoint],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._data = b""
        assert self.process.stderr
        self.endpoint = self.process.stderr.readline().decode().strip()
        assert self.endpoint, "it is not bound"

    def receive_until(self, last: bytes) -> list[bytes]:
        """The messages up to `last`."""
        assert self.process.stdout
        ends_at = time.monotonic() + DEADLINE_S
        pieces = [b"\n" + self._data]
        mark = b"\n" + last + b"\n"
        while mark not in b"".join(pieces[-2:]):
            left_s = ends_at - time.monotonic()
            assert left_s > 0, f"{last!r} has not come"
            if select.select([self.process.stdout], [], [], left_s)[0]:
                piece = os.read(self.process.stdout.fileno(), 1 << 20)
                assert piece, "the collector has ended"
                pieces[-1:] = (
                    [pieces[-1] + piece] if len(pieces[-1]) < 65_536 else [*pieces[-1:], piece]
                )
        before, _, self._data = b"".join(pieces).partition(mark)
        return [*before[1:].split(b"\n"), last] if before else [last]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, and wait until it is stopped if that stops it."""
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            wait_until_stopped(self.process.pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()


StartPrinter = Callable[..., Printer]


class HandmadePull:
    """A PULL peer by hand (RFC 23, ZMTP 3.0): reads only when told, and sees the very end."""

    GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x04PULL"

    def __init__(self, address: str) -> None:
        self._listener = socket.socket()
        self._listener.bind((address, 0))
        self._listener.listen()
        self.endpoint = "tcp://{}:{}".format(*self._listener.getsockname())
        self._stream: Any = None

    def accept(self) -> None:
        """Take the next connection, and shake hands."""
        if self._stream:
            self._stream.close()
        self._listener.settimeout(DEADLINE_S)
        connection, _ = self._listener.accept()
        connection.settimeout(DEADLINE_S)
        connection.sendall(self.GREETING + b"\x04%c" % len(self.READY) + self.READY)
        self._stream = connection.makefile("rwb")
        connection.close()
        assert self._read(64)[:1] == b"\xff"
        flags, size = self._read(2)
        assert flags & 4, "a command"
        assert self._read(size).startswith(b"\x05READY")

    def send(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()

    def receive_all(self) -> list[bytes]:
        """The whole messages that come until the connection ends."""
        messages = []
        while len(head := self._read(1)) == 1:
            size = self._read(8 if head[0] & 2 else 1)
            body = self._read(int.from_bytes(size, "big"))
            if len(body) == int.from_bytes(size, "big") and size:
                messages.append(body)
        return messages

    def _read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        return data

    def close(self) -> None:
        self._listener.close()
        if self._stream:
            self._stream.close()


def host_of(endpoint: str) -> str:
    return endpoint[len("tcp://") :].rpartition(":")[0].strip("[]")


def bound(shipper: Shipper) -> str:
    """The endpoint that it says it is bound to."""
    match = re.fullmatch(r"zmqpush\.py: bound to (\S+)\n", shipper.read_stderr_line())
    assert match
    return match[1]

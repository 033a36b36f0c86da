"""The fixtures of this room."""

from __future__ import annotations

import contextlib
import os
import pty
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.push.peers import HandmadePull, Printer, PullFrom, StartPrinter, host_of
from tests.support.waiting import DEADLINE_S


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The two ends of a pseudo-terminal without echo: the user's, and the program's."""
    user, program = pty.openpty()
    attributes = termios.tcgetattr(program)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(program, termios.TCSANOW, attributes)
    yield user, program
    os.close(program)
    try:
        os.close(user)
    except OSError:  # the test has hung up
        return


@pytest.fixture
def start_printer() -> Iterator[StartPrinter]:
    """Starts collectors in processes of their own; all are killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(endpoint: str, *within: str) -> Printer:
            printer = Printer(endpoint, *within)
            stack.callback(printer.kill)
            return printer

        yield start


@pytest.fixture
def handmade(endpoint: str) -> Iterator[HandmadePull]:
    """A PULL peer by hand, which listens already."""
    peer = HandmadePull(host_of(endpoint))
    yield peer
    peer.close()


@pytest.fixture
def pub() -> Iterator[str]:
    """The endpoint of a PUB socket."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PUB)
    socket.bind("tcp://127.0.0.1:*")
    yield socket.getsockopt_string(zmq.LAST_ENDPOINT)
    context.destroy(linger=0)


@pytest.fixture
def pull_from() -> Iterator[PullFrom]:
    """Makes PULL sockets that connect."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def connect(endpoint: str) -> zmq.Socket[bytes]:
        puller = context.socket(zmq.PULL)
        puller.setsockopt(zmq.IPV6, 1)
        puller.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        puller.connect(endpoint)
        return puller

    yield connect
    context.destroy(linger=0)

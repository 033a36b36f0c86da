"""O_NONBLOCK belongs to the open file, which others may share: it is put back on every way out."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.push.inputs import in_lines, is_nonblocking, numbers, reset, summary_of, tcp_pair
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.lines import written_in_background
from tests.support.net import NOBODY, unread
from tests.support.proc import wait_until_acts_on, wait_until_asleep, wait_until_taken
from tests.support.programs import Shipper
from tests.support.waiting import DEADLINE_S, wait_until


def signalled(shipper: Shipper, number: signal.Signals) -> None:
    """Send a signal when it has acted on the one before, and wait until it was taken."""
    wait_until_acts_on(shipper.pid, number)
    wait_until_asleep(shipper.pid, 0.05)
    shipper.signal(number)
    wait_until_taken(shipper.pid, number)


WAYS_OUT = {
    "end of input": ([], [], True, 0),
    "SIGINT": ([], [signal.SIGINT], False, 0),
    "SIGTERM": ([], [signal.SIGTERM], True, 0),
    "SIGINT twice": (["-c", NOBODY], [signal.SIGINT, signal.SIGINT], False, 1),
    "SIGTERM twice": (["-c", NOBODY], [signal.SIGTERM, signal.SIGTERM], False, 1),
    "SIGTERM, SIGINT": (["-c", NOBODY], [signal.SIGTERM, signal.SIGINT], False, 1),
    "given up": (["-c", NOBODY, "--linger", "0"], [], True, 1),
    "usage": (["--no-such-option"], [], False, 2),
}


@pytest.mark.once
@pytest.mark.parametrize("before", [0, os.O_NONBLOCK], ids=["blocking", "nonblocking"])
@pytest.mark.parametrize("way_out", WAYS_OUT)
def test_flags_are_put_back_whatever_the_way_out(
    way_out: str, before: int, collector: Collector, ship: Ship
) -> None:
    arguments, signals, ends, status = WAYS_OUT[way_out]
    reader, writer = os.pipe()
    flags = fcntl.fcntl(reader, fcntl.F_GETFL) | before
    fcntl.fcntl(reader, fcntl.F_SETFL, flags)
    shipper = ship(*(arguments or ["-c", collector.endpoint]), stdin=reader)
    os.write(writer, b"x\n")
    if status != 2:
        wait_until(lambda: not unread(reader), "read")
        assert is_nonblocking(reader) or shipper.process.poll() is not None
    for number in signals:
        signalled(shipper, number)
    if ends:
        os.close(writer)
    result = shipper.finish()
    if not ends:
        os.close(writer)
    assert result.status == status, result.stderr
    assert fcntl.fcntl(reader, fcntl.F_GETFL) == flags
    os.close(reader)


def test_flags_are_put_back_when_the_input_cannot_be_read_any_more(
    collector: Collector, ship: Ship
) -> None:
    ours, theirs = tcp_pair()
    with theirs:
        shipper = ship("-c", collector.endpoint, stdin=theirs)
        ours.sendall(b"one\n")
        collector.receive(1)
        reset(ours)
        assert shipper.finish().status == 1
        assert not is_nonblocking(theirs.fileno())


def test_flags_are_put_back_where_progress_lacks_tqdm(
    tmp_path: Path, terminal: tuple[int, int], ship: Ship
) -> None:
    (tmp_path / "tqdm.py").write_text("raise ImportError('No module named tqdm')\n")
    reader, writer = os.pipe()
    flags = fcntl.fcntl(reader, fcntl.F_GETFL)
    shipper = ship(
        "--progress",
        "-c",
        NOBODY,
        stdin=reader,
        stderr=terminal[1],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert shipper.finish().status == 2
    os.close(writer)
    assert fcntl.fcntl(reader, fcntl.F_GETFL) == flags
    os.close(reader)


def test_standard_output_that_shares_the_input_gets_its_summary(
    collector: Collector, ship: Ship
) -> None:
    """On one socket for both, as inetd has it, O_NONBLOCK would be the output's as well."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            shipper = ship("-c", collector.endpoint, stdin=theirs, stdout=theirs)
        ours.sendall(b"one\n")
        ours.shutdown(socket.SHUT_WR)
        assert collector.texts(1) == ["one"]
        ours.settimeout(DEADLINE_S)
        summary = b"".join(iter(lambda: ours.recv(4096), b""))
    assert shipper.finish().status == 0
    assert summary_of(summary.decode())


@pytest.mark.once
def test_writer_that_blocks_on_a_full_pipe_is_let_go_on(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint, "--format", "raw")
    data = in_lines(numbers(100_000))
    with written_in_background(shipper, data):
        assert collector.receive(100_000) == data.split()
    assert shipper.finish().processed == 100_000

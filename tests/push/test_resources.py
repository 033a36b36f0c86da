"""What the shipper takes of the machine: no wake-up without a cause, memory for what waits.

The system tells: how often its threads were woken (context switches), bytes in a pipe (FIONREAD),
bytes in memory (VmRSS).
"""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import zmqpush
from tests.push.command_line import refused
from tests.push.peers import HandmadePull
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.lines import fill, filled, lines, text, written_in_background
from tests.support.places import InFile
from tests.support.proc import (
    highest_memory,
    memory,
    wait_until_asleep,
    wait_until_at_rest,
    wakeups,
)
from tests.support.programs import wait_until_read
from zmqlines.memory import cut

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


Collect = Callable[..., Collector]


# ---- without polling --------------------------------------------------------------------------


def test_connected_and_idle_nothing_wakes_it(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint)
    shipper.write(b"x\n")
    assert collector.texts(1) == ["x"]
    wait_until_asleep(shipper.pid)
    main, total = wakeups(shipper.pid, 1.0)
    assert main == 0
    assert total <= 1


def test_idle_on_a_terminal_or_fifo_nothing_wakes_it(
    tmp_path: Path, collector: Collector, ship: Ship
) -> None:
    os.mkfifo(tmp_path / "fifo")
    descriptor = os.open(tmp_path / "fifo", os.O_RDWR)
    user, program = os.openpty()
    shippers = [ship("-c", collector.endpoint, stdin=stdin) for stdin in (descriptor, program)]
    os.write(descriptor, b"x\n")
    os.write(user, b"x\n")
    collector.receive(2)
    for shipper in shippers:
        wait_until_asleep(shipper.pid)
    for shipper in shippers:
        main, total = wakeups(shipper.pid, 0.5)
        assert main == 0
        assert total <= 1
    for end in (descriptor, user, program):
        os.close(end)


@pytest.mark.parametrize("limit", ["0", "1M"], ids=["unbounded", "limited"])
def test_blocked_by_its_collector_it_does_not_poll(
    limit: str, handmade: HandmadePull, ship: Ship
) -> None:
    """With a backlog and no room in libzmq it sleeps; with a full pipe behind it, too."""
    shipper = ship("-c", handmade.endpoint, "--queue-limit", limit)
    handmade.accept()
    fill(shipper, 20_000_000)
    wait_until_at_rest(shipper.pid)
    assert wakeups(shipper.pid, 1.0) == (0, 0)


def test_without_a_collector_only_reconnecting_wakes_it(endpoint: str, ship: Ship) -> None:
    shipper = ship("-c", endpoint)
    shipper.write(text(lines(50_000)))
    wait_until_read(shipper)
    main, total = wakeups(shipper.pid, 1.0)
    assert main == 0
    assert total <= 20


@pytest.mark.soak
def test_without_a_collector_it_wakes_less_than_once_a_second(endpoint: str, ship: Ship) -> None:
    shipper = ship("-c", endpoint)
    shipper.write(text(lines(50_000)))
    wait_until_read(shipper)
    wakeups(shipper.pid, 10)  # reconnects have backed off to one every 2 s
    main, total = wakeups(shipper.pid, 20)
    assert main == 0
    assert total < 20


# ---- memory, and the writer held back ---------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("write_size", [500, 1_000_000], ids=["small-writes", "large-writes"])
def test_memory_grows_by_what_waits_and_comes_down_again(
    write_size: int, endpoint: str, collect: Collect, ship: Ship
) -> None:
    size, count = 1000, 150_000
    line = b"x" * (size - 1) + b"\n"
    block = line * 1000
    shipper = ship("-c", endpoint, "--format", "raw")
    shipper.write(b"first\n")
    wait_until_read(shipper)
    at_start = memory(shipper.pid)
    assert shipper.process.stdin
    descriptor = shipper.process.stdin.fileno()
    written = 0
    while written < count * size:
        at = written % len(block)
        written += os.write(descriptor, block[at : at + write_size])
    wait_until_read(shipper)
    grown = memory(shipper.pid) - at_start
    assert count * size * 0.9 < grown < count * size * 1.15
    collector = collect(endpoint)
    assert collector.receive(1) == [b"first"]
    for _ in range(10):
        assert set(collector.receive(count // 10)) == {line[:-1]}
    wait_until_asleep(shipper.pid)
    assert memory(shipper.pid) - at_start < 15e6
    assert shipper.process.poll() is None
    assert shipper.finish().processed == count + 1


def test_queue_limit_holds_the_writer_back_and_lets_it_go_on(
    endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--format", "raw", "--queue-limit", "1M")
    written = fill(shipper, 20_000_000)
    pipe, one_read = 65_536, 262_144
    libzmq = 1000 * 100  # SNDHWM messages
    assert 1_000_000 < written < 2**20 + pipe + one_read + libzmq
    assert memory(shipper.pid) < 60e6
    rest = b"x" * 98 + b"\n"
    begin = filled(written)
    with written_in_background(shipper, b"\n" + rest * 50_000):
        received = collect(endpoint).receive(len(begin) + 50_000)
    assert received[: len(begin)] == begin
    assert set(received[len(begin) :]) == {rest[:-1]}
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, len(received), "")


@pytest.mark.parametrize("limit", [6, 8, 10, 12, 16, 20])
def test_too_few_descriptors_are_told_in_one_line(
    limit: int, collector: Collector, ship: Ship
) -> None:
    """libzmq would abort, or Python give a traceback."""
    limits = (limit, limit)
    result = ship(
        *("-c", collector.endpoint),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
    ).finish(b"x\n")
    assert re.fullmatch(
        r"\d+ more files must be opened, and only -?\d+ can be: .+", refused(result)
    )


def test_as_many_descriptors_as_it_asks_for_are_enough(collector: Collector, ship: Ship) -> None:
    limits = (4 + zmqpush.OPEN_FILES + 1, 4 + zmqpush.OPEN_FILES + 1)  # /proc/self/fd is one
    shipper = ship(
        *("-c", collector.endpoint),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
    )
    result = shipper.finish(b"x\n")
    assert (result.status, result.stderr) == (0, "")
    assert collector.texts(1) == ["x"]


@pytest.mark.parametrize("options", [[], ["--ack"], ["--spool", "spool"]], ids=["", "ack", "spool"])
def test_descriptors_that_run_out_later_stop_nothing_and_lose_nothing(
    options: list[str], endpoint: str, ship: Ship, tmp_path: Path
) -> None:
    """Nothing can be connected then: that there is no collector is told, and that there is one."""
    acknowledged = ["--ack"] * ("--ack" in options)
    collecting = ("-b", endpoint, "-o", str(tmp_path / "events"), "-q", *acknowledged)
    collector = ship(*collecting, program="zmqpull.py")
    shipper = ship("-c", endpoint, *options, cwd=tmp_path)
    shipper.write(b"before\n")
    place = InFile(tmp_path / "events")
    place.wait_for(1)
    collector.signal(signal.SIGTERM)
    collector.finish()
    soft, hard = resource.prlimit(shipper.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(shipper.pid, resource.RLIMIT_NOFILE, (3, hard))
    collector = ship(*collecting, program="zmqpull.py")
    shipper.write(b"meanwhile\n")
    while "no collector at" not in (said := shipper.read_stderr_line()):
        assert "Too many open files" in said  # of the socket, or of the spool
    assert place.count() == 1
    resource.prlimit(shipper.pid, resource.RLIMIT_NOFILE, (soft, hard))
    place.wait_for(2)
    assert "connected" in shipper.read_stderr_line()
    assert shipper.finish().processed == 2
    assert place.messages() == ["before", "meanwhile"]


def test_blank_lines_with_a_large_field_take_little_memory(
    endpoint: str, collect: Collect, ship: Ship
) -> None:
    """250 kB of them are 750 MB of messages: not all at once."""
    count = 250_000
    field = "x" * 3000
    shipper = ship("-c", endpoint, "-f", f"large={field}")
    shipper.write(b"\n" * count)
    wait_until_read(shipper)
    collector = collect(endpoint)
    for _ in range(10):
        for message in collector.receive(count // 10):
            assert message.startswith(b'{"message":""')
    assert highest_memory(shipper.pid) < 100e6
    assert shipper.finish().processed == count


def test_lines_are_cut_into_chunks_of_so_many_and_none_is_lost() -> None:
    lines = b"".join(b"%d\n" % number for number in range(10))
    for most in range(1, 12):
        parts = cut(lines, most)
        assert b"".join(parts) == lines
        assert all(part.endswith(b"\n") for part in parts)
        assert [part.count(b"\n") for part in parts[:-1]] == [most] * ((10 - 1) // most)
    assert cut(b"\n" * 5, 2) == [b"\n\n", b"\n\n", b"\n"]

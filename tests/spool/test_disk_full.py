"""A full disk holds the writer back, loses nothing, and takes nothing from what is on it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.spool.helpers import (
    assert_delivered,
    feed,
    kept_in,
    messages_in,
    names,
    start_draining,
    stderr_of,
    wait_until_held_back,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.lines import in_background, lines, text, written_in_background
from tests.support.proc import wait_until_asleep
from tests.support.programs import Shipper
from tests.support.tmpfs import Disk
from zmqlines.spool_file import DISK_RESERVE

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


FULL = (
    "zmqpush.py: cannot write to the spool: No space left on device; reading on when that is over\n"
)


@pytest.fixture
def small_disk(disk: Callable[[str], Disk]) -> Disk:
    return disk("size=24m")


def start_on(disk: Disk, endpoint: str, ship: Ship, *arguments: str) -> Shipper:
    options = ("-c", endpoint, "--spool", str(disk.directory), "--format", "raw")
    return ship(*options, *arguments, **disk.inside)


@pytest.mark.long
@pytest.mark.parametrize("size", [100, 2000])
def test_full_disk_holds_the_writer_back_and_everything_arrives_when_the_collector_comes(
    size: int, small_disk: Disk, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = start_on(small_disk, endpoint, ship)
    expected = lines(30_000_000 // size, size=size - 1)
    with written_in_background(shipper, text(expected)):
        assert shipper.read_stderr_line() == FULL
        wait_until_held_back(shipper)
        assert collect(endpoint).receive(len(expected)) == expected
    assert_delivered(shipper.finish(), len(expected))
    assert names(small_disk.seen) == []


@pytest.mark.long
def test_full_disk_and_lines_one_at_a_time(
    small_disk: Disk, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = feed(start_on(small_disk, endpoint, ship), b"0\n")
    small_disk.fill_up(leave=DISK_RESERVE + 1_000_000)
    expected = [b"%d" % number for number in range(2000)]

    def write() -> None:
        for line in expected[1:]:
            shipper.write(line + b"\n")
            time.sleep(0.001)

    with in_background(write, shipper):
        assert collect(endpoint).receive(len(expected)) == expected
    result = shipper.finish()
    assert result.status == 0
    assert stderr_of(result) in ("", FULL)
    assert names(small_disk.seen) == []


@pytest.mark.long
def test_disk_that_others_fill_is_said_once_and_what_is_on_it_is_sent_and_it_goes_on_with_room(
    small_disk: Disk, endpoint: str, collect: Collect, ship: Ship
) -> None:
    expected = lines(60_000, size=99)
    shipper = feed(start_on(small_disk, endpoint, ship), text(expected[:30_000]))
    small_disk.fill_up()
    with written_in_background(shipper, text(expected[30_000:])):
        assert shipper.read_stderr_line() == FULL
        wait_until_held_back(shipper)
        collector = collect(endpoint)
        assert collector.receive(30_000) == expected[:30_000]
        small_disk.make_room()
        assert collector.receive(30_000) == expected[30_000:]
    assert_delivered(shipper.finish(), 60_000)
    assert names(small_disk.seen) == []


@pytest.mark.long
def test_disk_that_is_full_a_second_time_is_said_again(
    small_disk: Disk, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = feed(start_on(small_disk, endpoint, ship), b"one\n")
    collector = None
    for number in range(2):
        small_disk.fill_up()
        shipper.write(b"%d\n" % number)
        assert shipper.read_stderr_line() == FULL
        small_disk.make_room()
        collector = collector or collect(endpoint)
        assert collector.receive(1 if number else 2)[-1] == b"%d" % number
        wait_until_asleep(shipper.pid)
    assert_delivered(shipper.finish(), 3)


@pytest.mark.long
@pytest.mark.parametrize("by_others", [False, True], ids=["by-itself", "by-others"])
def test_killed_on_a_full_disk_nothing_that_was_journaled_is_lost(
    by_others: bool, small_disk: Disk, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    expected = lines(300_000, size=99)
    shipper = start_on(small_disk, endpoint, ship)
    with written_in_background(shipper, text(expected)):
        assert shipper.read_stderr_line() == FULL
        wait_until_held_back(shipper)
        shipper.process.kill()
    left = messages_in(small_disk.seen)
    assert len(left) > 100_000
    assert left == expected[: len(left)]
    if by_others:
        small_disk.fill_up()
    drained = start_draining(
        ship, eager_collector.endpoint, small_disk.directory, **small_disk.inside
    )
    assert eager_collector.receive(len(left)) == left
    assert_delivered(drained.finish(), len(left))
    assert names(small_disk.seen) == []


@pytest.mark.long
def test_it_starts_on_a_full_disk_holds_the_writer_back_and_goes_on_with_room(
    small_disk: Disk, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    expected = lines(60_000, size=99)
    shipper = feed(start_on(small_disk, endpoint, ship), text(expected[:30_000]))
    shipper.stop()
    small_disk.fill_up()
    shipper = start_on(small_disk, eager_collector.endpoint, ship)
    with written_in_background(shipper, text(expected[30_000:])):
        assert eager_collector.receive(30_000) == expected[:30_000]
        assert shipper.read_stderr_line() == FULL
        wait_until_held_back(shipper)
        small_disk.make_room()
        assert eager_collector.receive(30_000) == expected[30_000:]
    assert_delivered(shipper.finish(), 60_000)
    assert names(small_disk.seen) == []


@pytest.mark.long
def test_spool_that_cannot_be_begun_on_a_full_disk_holds_the_writer_back(
    small_disk: Disk, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    small_disk.fill_up()
    shipper = start_on(small_disk, eager_collector.endpoint, ship)
    expected = lines(30_000, size=99)
    with written_in_background(shipper, text(expected)):
        assert shipper.read_stderr_line() == FULL
        wait_until_held_back(shipper)
        small_disk.make_room()
        assert eager_collector.receive(30_000) == expected
    assert_delivered(shipper.finish(), 30_000)


@pytest.mark.long
def test_disk_that_could_never_hold_a_spool_is_status_2_with_the_figures(
    disk: Callable[[str], Disk], endpoint: str, ship: Ship
) -> None:
    tiny = disk("size=4m")
    result = start_on(tiny, endpoint, ship).finish(b"x\n")
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == (
        f"zmqpush.py: --spool {tiny.directory}: its disk has 4.2 MB, of which 8.4 MB are left "
        "free: it needs 9.4 MB at least\n"
    )


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_on_a_full_disk_gives_up_what_was_read_and_could_not_be_written(
    number: signal.Signals,
    small_disk: Disk,
    endpoint: str,
    eager_collector: Collector,
    ship: Ship,
) -> None:
    expected = lines(1000, size=99)
    shipper = feed(start_on(small_disk, endpoint, ship), text(expected[:900]))
    small_disk.fill_up()
    shipper.write(text(expected[900:]))
    assert shipper.read_stderr_line() == FULL
    shipper.signal(number)
    begin = time.monotonic()
    result = shipper.finish()
    assert time.monotonic() - begin < 6
    assert (result.status, result.processed) == (1, 0)
    assert stderr_of(result) == (
        "zmqpush.py: gave up 100 messages: they could not be written to the spool\n"
        + kept_in(small_disk.directory, 900)
    )
    small_disk.make_room()
    drained = start_draining(
        ship, eager_collector.endpoint, small_disk.directory, **small_disk.inside
    )
    assert eager_collector.receive(900) == expected[:900]
    assert drained.finish().status == 0


@pytest.mark.long
def test_signal_on_a_full_disk_gives_nothing_up_where_all_that_was_read_is_written(
    small_disk: Disk, endpoint: str, ship: Ship
) -> None:
    shipper = feed(start_on(small_disk, endpoint, ship), text(lines(900)))
    small_disk.fill_up()
    shipper.signal(signal.SIGTERM)
    result = shipper.finish()
    assert (result.status, stderr_of(result)) == (0, kept_in(small_disk.directory, 900))


@pytest.mark.long
def test_disk_that_has_room_in_time_after_a_signal_takes_everything(
    small_disk: Disk, endpoint: str, ship: Ship
) -> None:
    shipper = feed(start_on(small_disk, endpoint, ship), text(lines(900)))
    small_disk.fill_up()
    shipper.write(text(lines(100)))
    assert shipper.read_stderr_line() == FULL
    shipper.signal(signal.SIGTERM)
    small_disk.make_room()
    result = shipper.finish(b"last\n")
    assert (result.status, stderr_of(result)) == (0, kept_in(small_disk.directory, 1001))
    assert len(messages_in(small_disk.seen)) == 1001


@pytest.mark.long
def test_disk_that_is_full_while_it_is_given_back_ends_nothing(
    disk: Callable[[str], Disk], endpoint: str, collect: Collect, ship: Ship
) -> None:
    """What was deleted is given back in steps, each of which writes."""
    busy = disk("size=120m")
    expected = lines(80_000, size=999)
    shipper = feed(start_on(busy, endpoint, ship), text(expected))
    stop = threading.Event()

    def keep_full() -> None:
        with busy.seen.with_name("filler").open("ab", buffering=0) as filler:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    filler.write(bytes(65_536))
                    continue
                stop.wait(0.001)

    filling = threading.Thread(target=keep_full)
    filling.start()
    try:
        collector = collect(endpoint)
        assert collector.receive(len(expected)) == expected
        wait_until_asleep(shipper.pid)
    finally:
        stop.set()
        filling.join()
    busy.make_room()
    shipper.write(b"last\n")
    assert collector.receive(1) == [b"last"]
    assert_delivered(shipper.finish(), len(expected) + 1)
    assert names(busy.seen) == []

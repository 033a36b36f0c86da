"""What libzmq holds of large messages is bounded in bytes, and nothing is lost by that.

Its own watermark counts messages: 1,000 of half a megabyte are half a gigabyte.
"""

from __future__ import annotations

import resource
import shutil
import sys
from pathlib import Path

import pytest

import zmqpush
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.lines import text, written_in_background
from tests.support.proc import highest_memory, wait_until_asleep, wakeups
from tests.support.programs import TOP
from tests.support.running import run_program

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version

KEPT = {
    "memory": ["--queue-limit", "1M"],
    "memory-in-arrays": ["--queue-limit", "1M", "--batch", "500"],
    "spool": ["--spool", "spool"],
    "spool-in-arrays": ["--spool", "spool", "--batch", "500"],
}


def numbered(total: int, size: int) -> list[bytes]:
    """Lines of `size` bytes, `total` bytes in all, that can be told from each other."""
    return [(b"%d " % number).ljust(size, b"x") for number in range(total // size)]


def make_stuck(collect: Collect) -> Collector:
    """A collector that takes nothing ahead, so that all stays with who sends it."""
    return collect(RCVHWM=1, RCVBUF=65_536)


def take(collector: Collector, count: int) -> list[bytes]:
    """The next `count` events' messages, alone or in arrays."""
    taken: list[bytes] = []
    while len(taken) < count:
        (message,) = collector.events(1)
        events = message if isinstance(message, list) else [message]
        taken += [event["message"].encode() for event in events]
    return taken


@pytest.mark.parametrize("options", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize(("total", "size"), [(80_000_000, 500_000), (30_000_000, 20_000)])
def test_stuck_collector_and_large_lines_take_little_memory(
    total: int, size: int, options: list[str], collect: Collect, ship: Ship, tmp_path: Path
) -> None:
    collector = make_stuck(collect)
    sent = numbered(total, size)
    shipper = ship("-c", collector.endpoint, *options, cwd=tmp_path)
    with written_in_background(shipper, text(sent)):
        wait_until_asleep(shipper.pid, for_s=0.5)
        assert highest_memory(shipper.pid) < 60e6
        assert take(collector, len(sent)) == sent
    assert highest_memory(shipper.pid) < 60e6
    assert shipper.finish().processed == len(sent)


def test_short_lines_with_a_large_field_are_large_messages(collect: Collect, ship: Ship) -> None:
    collector = make_stuck(collect)
    sent = numbered(200_000, 50)
    shipper = ship("-c", collector.endpoint, "-f", "large=" + "x" * 100_000)
    shipper.write(text(sent))
    wait_until_asleep(shipper.pid, for_s=0.5)
    assert highest_memory(shipper.pid) < 60e6
    assert take(collector, len(sent)) == sent
    assert shipper.finish().processed == len(sent)


def test_who_waits_for_room_in_bytes_does_not_poll(collect: Collect, ship: Ship) -> None:
    collector = make_stuck(collect)
    sent = numbered(20_000_000, 100_000)
    shipper = ship("-c", collector.endpoint, "--queue-limit", "1M")
    with written_in_background(shipper, text(sent)):
        wait_until_asleep(shipper.pid, for_s=0.5)
        main, _ = wakeups(shipper.pid, 1.0)
        assert main == 0
        assert take(collector, len(sent)) == sent


def test_large_and_small_lines_come_in_their_order(collect: Collect, ship: Ship) -> None:
    """Both bounds are met: that in messages, and that in bytes."""
    collector = make_stuck(collect)
    sent = []
    for number, large in enumerate(numbered(40_000_000, 400_000)):
        sent += [large, *(b"%d.%d" % (number, small) for small in range(number % 7 * 50))]
    shipper = ship("-c", collector.endpoint, "--sndhwm", "10", "--queue-limit", "1M")
    with written_in_background(shipper, text(sent)):
        wait_until_asleep(shipper.pid, for_s=0.5)
        assert take(collector, len(sent)) == sent
    assert shipper.finish().processed == len(sent)


def test_a_stuck_collector_does_not_keep_another_from_what_it_can_take(
    collect: Collect, ship: Ship
) -> None:
    """Marks are with both of them: those of the stuck one stay."""
    working, not_working = collect(), make_stuck(collect)
    sent = numbered(60_000_000, 100_000)
    ends = ("-c", working.endpoint, "-c", not_working.endpoint)
    shipper = ship(*ends, "--sndhwm", "20", "--queue-limit", "1M")
    with written_in_background(shipper, text(sent)):
        most_stuck = 2 * 20 + 20  # in libzmq, and in the kernel
        taken = take(working, len(sent) - most_stuck)
        taken += take(not_working, 1)
        while len(taken) < len(sent):
            source = not_working if working.is_silent(20) else working
            taken += take(source, 1)
    assert sorted(taken) == sorted(sent)
    assert shipper.finish().processed == len(sent)


def test_without_its_part_large_lines_are_shipped_as_well(
    collector: Collector, tmp_path: Path
) -> None:
    shutil.copy2(TOP / "zmqpush.py", tmp_path)
    sent = numbered(3_000_000, 300_000)
    command = [sys.executable, str(tmp_path / "zmqpush.py"), "-c", collector.endpoint]
    assert run_program(command, text(sent)).status == 0
    assert take(collector, len(sent)) == sent


@pytest.mark.parametrize("spare", range(0, 24, 3))
def test_few_descriptors_do_not_keep_large_lines_back(
    spare: int, collector: Collector, ship: Ship
) -> None:
    """pyzmq opens some to hear of what libzmq has let go; without them it would abort."""
    most = 4 + zmqpush.OPEN_FILES + 1 + spare
    sent = numbered(30_000_000, 300_000)
    shipper = ship(
        *("-c", collector.endpoint),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)),
    )
    with written_in_background(shipper, text(sent)):
        assert take(collector, len(sent)) == sent
    result = shipper.finish()
    assert (result.processed, result.stderr) == (len(sent), "")

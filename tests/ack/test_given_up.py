"""What cannot be delivered: it is counted exactly and given up, or waits in the spool."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
from pathlib import Path

import pytest

import zmqpush
from tests.ack.helpers import as_input, copy_with, send_chunks, texts, trouble
from tests.support.ack import OurCollector
from tests.support.aliases import Ship
from tests.support.net import free_endpoint, unread
from tests.support.places import InSqlite
from tests.support.proc import wait_until_asleep
from tests.support.programs import wait_until_read
from tests.support.waiting import DEADLINE_S
from zmqlines.finished import Finished
from zmqlines.spool import Spool
from zmqlines.spool_file import SpoolFile

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version


@pytest.mark.long
def test_without_a_collector_linger_gives_up_with_the_exact_count(ship: Ship) -> None:
    shipper = ship("--ack", "-c", free_endpoint(), "--linger", "0.5")
    result = shipper.finish(as_input(texts(12_345)))
    assert (result.status, result.processed) == (1, 0)
    assert trouble(result) == (
        "zmqpush.py: gave up 12345 messages: no collector has acknowledged them\n"
    )


def test_what_is_not_acknowledged_counts_as_given_up(
    our_collector: OurCollector, ship: Ship
) -> None:
    """That it was sent does not mean anything."""
    shipper = ship("--ack", "-c", our_collector.endpoint, "--linger", "0.2")
    *_, chunk = send_chunks(shipper, our_collector, b"1\n", b"2\n3\n", b"4\n")
    our_collector.answer(chunk, 2)
    wait_until_asleep(shipper.pid)
    result = shipper.finish()
    assert (result.status, result.processed) == (1, 3)
    assert trouble(result) == "zmqpush.py: gave up 1 messages: no collector has acknowledged them\n"


def test_with_a_spool_what_waits_is_kept_and_the_next_one_sends_it(
    tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    endpoint, spool = free_endpoint(), str(tmp_path / "spool")
    expected = texts(2000)
    options = ("--ack", "-c", endpoint, "--spool", spool)
    result = ship(*options, "--linger", "0.2").finish(as_input(expected))
    assert (result.status, result.processed) == (0, 0)
    assert trouble(result) == (
        f"zmqpush.py: 2000 messages wait in {spool}, and 0 that were handed over and may have "
        "arrived: the next start sends them\n"
    )
    place = InSqlite(tmp_path / "events.db")
    pull_ack(endpoint, *place.options)
    result = ship(*options).finish(b"")
    assert (result.status, result.processed) == (0, 2000)
    assert place.messages() == expected
    assert os.listdir(spool) == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_gives_up_with_the_exact_count_of_what_was_not_acknowledged(
    number: signal.Signals, our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint)
    *_, chunk = send_chunks(shipper, our_collector, b"1\n", b"2\n3\n", b"4\n5\n6\n")
    our_collector.answer(chunk, 2)
    wait_until_asleep(shipper.pid)
    shipper.signal(number)
    result = shipper.finish()
    assert (result.status, result.processed) == (1, 3)
    expected = "zmqpush.py: gave up 3 messages: no collector has acknowledged them\n"
    assert trouble(result) == expected


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_in_the_spool_what_was_not_acknowledged(
    number: signal.Signals, tmp_path: Path, our_collector: OurCollector, ship: Ship
) -> None:
    spool = str(tmp_path / "spool")
    options = ("--ack", "-c", our_collector.endpoint, "--spool", spool)
    shipper = ship(*options)
    *_, chunk = send_chunks(shipper, our_collector, b"1\n", b"2\n3\n", b"4\n5\n6\n")
    our_collector.answer(chunk, 2)
    wait_until_asleep(shipper.pid)
    shipper.signal(number)
    result = shipper.finish()
    assert (result.status, result.processed) == (0, 3)
    assert trouble(result).startswith(f"zmqpush.py: 3 messages wait in {spool}, and 0 that were ")
    shipper = ship(*options)
    again = our_collector.receive_chunk()
    assert (again.shipper, again.number, again.first) == (chunk.shipper, 3, 3)
    assert again.texts == chunk.texts
    our_collector.answer(again, 3)
    assert shipper.finish().processed == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_answer_that_comes_soon_after_a_signal_counts(
    number: signal.Signals, our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint)
    shipper.write(b"1\n")
    chunk = our_collector.receive_chunk()
    shipper.signal(number)
    our_collector.answer(chunk, 1)
    result = shipper.finish()
    assert (result.status, result.processed) == (0, 1)


# ---- files of a spool -------------------------------------------------------------------------


def leave_files_behind(directory: Path, count: int) -> list[str]:
    """As many shippers do, of which each was killed; returns the texts in them."""
    for number in range(count):
        file = SpoolFile.create(str(directory))
        file.append(Finished(b"%d" % number, 1, 1))
        file.let_go()
    return [f"{number}" for number in range(count)]


def write_noise(directory: Path) -> None:
    """Over all of its files."""
    for path in directory.iterdir():
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.write(random.Random(9).randbytes(size))


@pytest.mark.long
def test_files_that_wait_for_acknowledgement_are_not_all_open_at_once(
    tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """A process may have so many descriptors, and each file takes several."""
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    program = copy_with(tmp_path, WINDOW_CHUNKS=5, MOST_LEFT_BEHIND=5)
    expected = leave_files_behind(tmp_path / "spool", 50)
    options = ("--ack", "-c", endpoint, "--spool", str(tmp_path / "spool"))
    shipper = ship(*options, program=program, stdin=subprocess.DEVNULL)
    assert " messages wait in " in shipper.read_stderr_line()
    wait_until_asleep(shipper.pid)
    assert len(os.listdir(f"/proc/{shipper.pid}/fd")) < 100
    pull_ack(endpoint, *place.options)
    result = shipper.finish()
    assert place.messages() == expected
    assert (result.status, result.processed) == (0, 50)
    assert len(place.records()) == 50
    assert os.listdir(tmp_path / "spool") == []


def test_books_are_right_when_a_file_is_damaged_while_its_chunks_are_in_the_window(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = zmqpush.parse_options(zmqpush.build_parser(""), ["--format", "raw"])
    form = zmqpush.make_format(options, 1)

    async def scenario() -> None:
        spool = Spool(str(tmp_path), 0, form)
        for _ in range(100):  # more than SQLite's cache holds
            await spool.put(b"x" * 99_999 + b"\n")
        await spool.safe()
        assert (spool.waiting(), spool.size, spool.homeless()) == (100, 10_000_000, 0)
        write_noise(tmp_path)
        window = []
        getting = asyncio.create_task(spool.get())
        while not spool.homeless():  # it meets the damage when it wants more than is in memory
            if getting.done():
                window.append(getting.result())
                getting = asyncio.create_task(spool.get())
            await asyncio.sleep(0)
        assert capfd.readouterr().err.count(" is damaged (") == 1
        assert 0 < len(window) < 100
        assert (spool.waiting(), spool.homeless()) == (len(window), len(window))
        assert spool.size == len(window) * 100_000
        await spool.put(b"new\n")
        assert (spool.waiting(), spool.size) == (len(window) + 1, len(window) * 100_000 + 4)
        window.append(await asyncio.wait_for(getting, DEADLINE_S))
        for left, chunk in enumerate(window, 1 - len(window)):
            assert chunk
            spool.sent += 1
            spool.done(chunk, 0)
            await asyncio.sleep(0)  # then it is deleted
            assert (spool.waiting(), spool.uncertain()) == (-left, 0)
        assert (spool.size, spool.homeless()) == (0, 0)
        spool.close(delivered=True)

    asyncio.run(scenario())
    assert list(tmp_path.glob("*.spool")) == []


@pytest.mark.long
def test_what_only_memory_has_since_its_file_was_damaged_is_given_up_with_a_count(
    tmp_path: Path, our_collector: OurCollector, ship: Ship
) -> None:
    spool = tmp_path / "spool"
    shipper = ship("--ack", "-c", our_collector.endpoint, "--spool", str(spool))
    shipper.write(as_input(texts(100_000, size=99)))
    wait_until_read(shipper)
    write_noise(spool)
    stderr, acknowledged = shipper.process.stderr, 0
    assert stderr
    while not unread(stderr.fileno()):
        chunk = our_collector.receive_chunk()
        acknowledged += chunk.texts[0].count(b"\n") + 1
        our_collector.answer(chunk, chunk.number)
        wait_until_asleep(shipper.pid)
    assert " is damaged (" in shipper.read_stderr_line()
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert (result.status, result.processed) == (1, acknowledged)
    said = r"zmqpush\.py: gave up at most (\d+) messages: the file that had them is damaged\n"
    match = re.fullmatch(said, trouble(result))
    assert match, result.stderr
    assert 0 < int(match[1]) < 100_000 - acknowledged

"""What is damaged is put aside, told once, and stops neither other files nor new lines.

Files are cut short, overwritten and taken for spools. The random choices are seeded: a failure
comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import re
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.spool.helpers import (
    assert_delivered,
    feed,
    leave_behind,
    make_files,
    make_spool,
    messages_in,
    names,
    sent_from,
    start_draining,
    start_raw,
    stderr_of,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.lines import lines, text, wait_until_pipe_is_empty
from tests.support.proc import wait_until_asleep
from tests.support.programs import Shipper, wait_until_read
from tests.support.waiting import DEADLINE_S
from zmqlines.finished import Finished
from zmqlines.spool_file import SpoolFile

# ---- files that were left behind --------------------------------------------------------------


def overwrite(path: Path, noise: bytes, at: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(noise)


def noise_over_all(path: Path, chance: random.Random) -> None:
    overwrite(path, chance.randbytes(path.stat().st_size))


def noise_in_the_middle(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    overwrite(path, chance.randbytes(size // 3), size // 3)


def noise_over_the_head(path: Path, chance: random.Random) -> None:
    overwrite(path, chance.randbytes(100))


def cut_short(path: Path, chance: random.Random) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def left_behind_by(
    ship: Ship, endpoint: str, directory: Path, data: bytes, *arguments: str
) -> Path:
    """The file that a process leaves there with `data` in it."""
    before = set(directory.iterdir()) if directory.exists() else set()
    leave_behind(ship, endpoint, directory, data, *arguments, "--format", "raw")
    (path,) = set(directory.iterdir()) - before
    return path


@pytest.mark.long
@pytest.mark.parametrize("damaged", [0, 1], ids=["the-older", "the-younger"])
@pytest.mark.parametrize(
    "damage", [noise_over_all, noise_in_the_middle, noise_over_the_head, cut_short]
)
def test_damaged_file_is_renamed_and_said_once_and_the_others_are_sent(
    damage: Callable[[Path, random.Random], None],
    damaged: int,
    directory: Path,
    endpoint: str,
    eager_collector: Collector,
    ship: Ship,
) -> None:
    data = [lines(5000, start=start) for start in (0, 5000)]
    paths = [left_behind_by(ship, endpoint, directory, text(each)) for each in data]
    damage(paths[damaged], random.Random(8))
    healthy, lost = data[1 - damaged], set(data[damaged])
    shipper = start_raw(ship, eager_collector.endpoint, directory)
    result = shipper.finish(b"own\n")
    assert result.status == 0
    path = str(paths[damaged])
    said = rf"zmqpush\.py: {path} is damaged \(.+\): it is kept as {path}\.damaged\n"
    assert re.fullmatch(said, stderr_of(result))
    received = eager_collector.receive(result.processed)
    assert [line for line in received if line not in lost] == [*healthy, b"own"]
    assert received[-1] == b"own"
    assert names(directory) == [f"{paths[damaged].name}.damaged"]
    assert_delivered(start_draining(ship, eager_collector.endpoint, directory).finish(), 0)


@pytest.mark.long
def test_of_a_damaged_file_is_sent_what_comes_before_the_damage(
    directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    expected = lines(50_000, size=99)
    path = left_behind_by(ship, endpoint, directory, text(expected))
    content = path.read_bytes()
    overwrite(path, b"noise", content.index(expected[40_000]))
    result = start_draining(ship, eager_collector.endpoint, directory).finish()
    assert result.status == 0
    assert re.fullmatch(
        r"zmqpush\.py: \S+ is damaged \(.+\): it is kept as \S+\n", stderr_of(result)
    )
    assert 0 < result.processed <= 40_000
    received = eager_collector.receive(result.processed)
    assert received == expected[: len(received)]


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_link_to_a_spool_elsewhere(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    make_files(elsewhere, 2)
    path.symlink_to(max(elsewhere.glob("*.spool")))


@pytest.mark.long
@pytest.mark.parametrize(
    "make", [Path.mkdir, make_fifo, make_dangling_link, make_link_to_a_spool_elsewhere]
)
def test_what_is_no_file_is_left_alone(
    make: Callable[[Path], None], directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    directory.mkdir()
    make(directory / "x.spool")
    shipper = start_raw(ship, eager_collector.endpoint, directory)
    assert_delivered(shipper.finish(b"own\n"), 1)
    assert eager_collector.receive(1) == [b"own"]
    assert names(directory) == ["x.spool"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["x", "x.spool.damaged", "x.spool.damaged-wal", ".spool.swp"])
def test_files_of_other_names_are_left_alone(
    name: str, directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    directory.mkdir()
    (directory / name).write_bytes(b"not ours")
    assert_delivered(start_draining(ship, eager_collector.endpoint, directory).finish(), 0)
    assert (directory / name).read_bytes() == b"not ours"


def test_empty_file_is_removed(directory: Path, eager_collector: Collector, ship: Ship) -> None:
    directory.mkdir()
    (directory / "x.spool").touch()
    assert_delivered(start_draining(ship, eager_collector.endpoint, directory).finish(), 0)
    assert names(directory) == []


@pytest.mark.long
def test_damaged_file_whose_other_name_is_taken_does_not_stop_the_others(
    directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    damaged = left_behind_by(ship, endpoint, directory, b"damaged\n")
    left_behind_by(ship, endpoint, directory, b"healthy\n")
    overwrite(damaged, b"noise")
    Path(f"{damaged}.damaged", "in the way").mkdir(parents=True)
    result = start_draining(ship, eager_collector.endpoint, directory).finish()
    assert (result.status, result.processed) == (0, 1)
    assert len(stderr_of(result).splitlines()) <= 2
    assert eager_collector.receive(1) == [b"healthy"]


# ---- whatever was done to a file --------------------------------------------------------------

Mutation = Callable[[bytearray, random.Random], None]


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def scribble(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    end = min(len(data), at + chance.choice([1, 8, 100, 4096, 65_536]))
    data[at:end] = chance.randbytes(end - at)


def zero(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(0, len(data), 512)
    end = min(len(data), at + chance.choice([512, 4096, 65_536]))
    data[at:end] = bytes(end - at)


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 2, 30])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_in_the_head(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(min(len(data), 300))] ^= 1 << chance.randrange(8)


def misplace(data: bytearray, chance: random.Random) -> None:
    size = SpoolFile.PAGE_SIZE
    source, target = (chance.randrange(0, len(data), size) for _ in range(2))
    data[target : target + size] = data[source : source + size]


def append(data: bytearray, chance: random.Random) -> None:
    data += chance.randbytes(10_000)


MUTATIONS: list[Mutation] = [cut, scribble, zero, flip, flip_in_the_head, misplace, append]


class Leftover:
    """What a killed process has left behind, and ways to damage it."""

    def __init__(self, directory: Path) -> None:
        (path,) = directory.glob("*.spool")
        self._parts = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
        self.messages = set(messages_in(directory))
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint")
        self._parts["whole"] = path.read_bytes()

    def damage(self, directory: Path, chance: random.Random) -> str:
        """Write it there, damaged; returns what was done to it."""
        directory.mkdir()
        parts = {name: bytearray(self._parts[name]) for name in ("", "-wal")}
        done = []
        if chance.random() < 0.5:
            parts = {"": bytearray(self._parts["whole"])}
        elif chance.random() < 0.2:
            del parts["-wal"]
            done.append("no log")
        for _ in range(chance.choice([1, 1, 2])):
            mutate, name = chance.choice(MUTATIONS), chance.choice(list(parts))
            if parts[name]:
                mutate(parts[name], chance)
            done.append(f"{mutate.__name__} {name or 'database'}")
        for name, data in parts.items():
            (directory / f"1.spool{name}").write_bytes(data)
        return ", ".join(done)


@pytest.fixture
def leftover(directory: Path, endpoint: str, ship: Ship) -> Leftover:
    """A few hundred events in chunks of one line and of hundreds, some longer than a page."""
    shipper = start_raw(ship, endpoint, directory)
    chance = random.Random(8)
    for number in range(60):
        size = chance.choice([5, 50, 50, 500, 20_000])
        shipper.write(text(lines(chance.choice([1, 3, 20]), size, start=1000 * number)))
        wait_until_pipe_is_empty(shipper)
    wait_until_read(shipper)
    shipper.stop()
    return Leftover(directory)


HARMLESS = re.compile(
    r"(zmqpush\.py|\S+): \S+1\.spool( is damaged \(.+\): it is kept as \S+|: .+; it is left alone)"
)


@pytest.mark.long
def test_shipper_survives_whatever_was_done_to_a_file(
    leftover: Leftover, tmp_path: Path, eager_collector: Collector, ship: Ship
) -> None:
    chance = random.Random(20)
    outcomes: Counter[str] = Counter()
    for trial in range(16):
        directory = tmp_path / str(trial)
        done = leftover.damage(directory, chance)
        shipper = start_draining(ship, eager_collector.endpoint, directory)
        result = shipper.finish()
        said = stderr_of(result).splitlines()
        assert result.status == 0, (trial, done, said)
        assert all(map(HARMLESS.fullmatch, said)), (trial, done, said)
        assert len(said) <= 1, (trial, done, said)
        received = eager_collector.receive(result.processed)
        assert set(received) <= leftover.messages, (trial, done)
        rest = [name for name in names(directory) if not name.startswith("1.spool.damaged")]
        assert not rest or said, (trial, done, rest)
        outcomes["damaged" if said else "sent"] += 1
    print(outcomes)
    assert len(outcomes) == 2


@pytest.mark.long
def test_spool_survives_whatever_was_done_to_a_file(
    leftover: Leftover, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(1000)
    outcomes: Counter[str] = Counter()
    for trial in range(120):
        directory = tmp_path / str(trial)
        done = leftover.damage(directory, chance)
        messages = sent_from(directory)
        said = capfd.readouterr().err.splitlines()
        assert set(messages) <= leftover.messages, (trial, done)
        assert all(map(HARMLESS.fullmatch, said)), (trial, done, said)
        assert len(said) <= 1, (trial, done, said)
        outcomes[f"{'damaged' if said else 'sent'} {'all' if messages else 'none'}"] += 1
        shutil.rmtree(directory)
    print(outcomes)


# ---- files in use -----------------------------------------------------------------------------


def noise_over(directory: Path) -> None:
    for path in directory.iterdir():
        noise_over_all(path, random.Random(9))


def check_that_new_lines_arrive(shipper: Shipper, collector: Collector) -> None:
    """And end it; what it says may be that a file is damaged."""
    for number in range(3000):
        shipper.write(b"new %d\n" % number)
        if number % 100 == 0:
            wait_until_pipe_is_empty(shipper)
    assert collector.receive(3000) == [b"new %d" % number for number in range(3000)]
    result = shipper.finish()
    assert result.status == 0
    damaged = r"(zmqpush\.py: \S+ is damaged \(.+\): it is kept as \S+\.damaged\n)?"
    assert re.fullmatch(damaged, stderr_of(result))


@pytest.mark.long
def test_noise_over_the_files_of_a_running_shipper_does_not_stop_new_lines(
    directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    shipper = start_raw(ship, eager_collector.endpoint, directory)
    for start in range(0, 30_000, 10_000):
        shipper.write(text(lines(10_000, size=99, start=start)))
        assert eager_collector.receive(10_000) == lines(10_000, size=99, start=start)
        wait_until_asleep(shipper.pid)
        noise_over(directory)
    check_that_new_lines_arrive(shipper, eager_collector)


@pytest.mark.long
def test_noise_over_what_waits_on_disk_does_not_stop_new_lines(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    before = lines(100_000, size=99)
    shipper = feed(start_raw(ship, endpoint, directory), text(before))
    noise_over(directory)
    feed(shipper, text(before))
    collector = collect(endpoint, RCVHWM=0)
    said = shipper.read_stderr_line()
    assert re.fullmatch(r"zmqpush\.py: \S+ is damaged \(.+\): it is kept as \S+\n", said)
    wait_until_asleep(shipper.pid)
    received = []
    while not collector.is_silent():
        received += collector.receive(1)
    assert received == before[: len(received)]
    assert names(directory) == [f"{Path(said.split()[1]).name}.damaged"]
    check_that_new_lines_arrive(shipper, collector)


@pytest.mark.parametrize("is_full", [False, True], ids=["", "full"])
def test_line_that_is_being_written_when_the_file_turns_out_damaged_is_kept(
    is_full: bool, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow, so that what waits is loaded, and damage is met, in the meantime."""
    really_append = SpoolFile.append
    full = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))] if is_full else []

    def append(file: SpoolFile, chunk: Finished) -> None:
        if full:
            raise full.pop()
        really_append(file, chunk)

    async def scenario() -> list[bytes]:
        spool = make_spool(directory)
        for start in range(0, 100_000, 1000):  # more than SQLite's cache holds
            await spool.put(text(lines(1000, size=99, start=start)))
        await spool.safe()
        noise_over(directory)
        own, written = spool._own(), threading.Event()
        vars(own).update(sync=lambda: written.wait(DEADLINE_S))
        vars(spool).update(_sync_s=1.0)  # too slow to be waited for on the thread of the loop
        putting = asyncio.create_task(spool.put(b"new\n"))

        async def write_when_damage_was_met() -> None:
            while not own.closed:
                await asyncio.sleep(0.01)
            monkeypatch.setattr(SpoolFile, "append", append)
            written.set()

        writing = asyncio.create_task(write_when_damage_was_met())
        messages: list[bytes] = []
        while b"new" not in messages:
            chunk = await asyncio.wait_for(spool.get(), DEADLINE_S / 4)
            assert chunk
            messages += chunk.messages()
            spool.done(chunk, chunk.count())
        await asyncio.gather(putting, writing)
        return messages

    assert asyncio.run(scenario())[-1] == b"new"

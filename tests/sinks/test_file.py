"""Files: appended to, opened anew, synced, on a full disk; no event is lost or torn."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import stat
import threading
from pathlib import Path

import pytest

from tests.support.ack import ALICE
from tests.support.aliases import Ship
from tests.support.disk import SmallDisk
from tests.support.net import unread
from tests.support.proc import wait_until_asleep
from tests.support.pulling import (
    ANY_PORT,
    PROGRAM,
    Pull,
    Puller,
    Push,
    lines_in,
    numbered,
    send,
)
from tests.support.waiting import DEADLINE_S, wait_until
from zmqlines.ack import Offer
from zmqlines.sinks.contract import Trouble
from zmqlines.sinks.file import Descriptor, File

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

ANEW = "it was removed or renamed; going on in a new file"


def test_events_are_appended_to_each_file(pull: Pull, push: Push, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"old\n")
    puller = pull("--output", str(old), "-o", str(new), "-n", "3")
    send(push(puller.endpoint), numbered(3))
    assert puller.end() == ["3 events written"]
    assert lines_in(old) == [b"old", *numbered(3)]
    assert lines_in(new) == numbered(3)
    assert puller.finish().stdout == ""


@pytest.mark.long
def test_sighup_opens_the_files_anew_and_no_event_is_lost_or_torn(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    count, rotations = 100_000, 4
    paths = [tmp_path / "a", tmp_path / "b"]
    puller = pull("-o", str(paths[0]), "-o", str(paths[1]), "-n", str(count))
    sender = push(puller.endpoint)
    streaming = threading.Thread(target=send, args=(sender, numbered(count)))
    streaming.start()
    for rotation in range(rotations):
        wait_until(lambda: all(path.stat().st_size > 1000 for path in paths), "events are there")
        for path in paths:
            path.rename(f"{path}.{rotation}")
        puller.signal(signal.SIGHUP)
        wait_until(lambda: all(path.exists() for path in paths), "the files are opened anew")
    streaming.join()
    *said, written = puller.end()
    assert written == f"{count} events written"
    assert set(said) <= {f"{path}: {ANEW}" for path in paths}  # it may be faster than the signal
    for path in paths:
        parts = [Path(f"{path}.{rotation}") for rotation in range(rotations)] + [path]
        assert [line for part in parts for line in lines_in(part)] == numbered(count)


@pytest.mark.long
def test_sighup_leaves_a_full_fifo_alone(pull: Pull, push: Push, tmp_path: Path) -> None:
    count, fifo = 10_000, tmp_path / "fifo"
    os.mkfifo(fifo)
    with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb") as reading:
        puller = pull("-o", str(fifo), "-n", str(count))
        sender = push(puller.endpoint)
        streaming = threading.Thread(target=send, args=(sender, numbered(count)))
        streaming.start()
        wait_until_asleep(puller.pid)
        puller.signal(signal.SIGHUP)
        assert puller.counters()[2] > 0
        os.set_blocking(reading.fileno(), True)
        assert [reading.readline() for _ in range(count)] == [e + b"\n" for e in numbered(count)]
    streaming.join()
    assert puller.end()[-1] == f"{count} events written"


def test_a_file_that_cannot_be_opened_anew_is_said_and_the_old_one_goes_on(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    puller = pull("-o", str(folder / "file"), "-n", "1")
    folder.rename(tmp_path / "elsewhere")
    puller.signal(signal.SIGHUP)
    said = puller.wait_for_word("old file")
    assert said == f"{folder}/file: No such file or directory; going on in the old file"
    push(puller.endpoint).send(b"{}")
    assert puller.end() == [said, "1 events written"]
    assert lines_in(tmp_path / "elsewhere" / "file") == [b"{}"]


@pytest.mark.parametrize("what", ["removed", "renamed", "replaced"])
def test_a_file_that_is_taken_away_is_made_anew_and_told(
    what: str, pull: Pull, push: Push, tmp_path: Path
) -> None:
    path, old = tmp_path / "file", tmp_path / "old"
    puller = pull("-o", str(path))
    sender = push(puller.endpoint)
    send(sender, numbered(5))
    wait_until(lambda: puller.counters()[0] == 5, "all is written")
    if what == "removed":
        path.unlink()
    elif what == "renamed":
        path.rename(old)
    else:
        old.touch()
        old.rename(path)
    send(sender, numbered(5, 5))
    assert puller.wait_for_word(ANEW) == f"{path}: {ANEW}"
    assert puller.end(signal.SIGTERM)[-1] == "10 events written"
    assert lines_in(path) == numbered(5, 5)
    assert lines_in(old) == (numbered(5) if what == "renamed" else [])


def test_a_folder_that_is_taken_away_holds_back_until_it_is_there_again(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    puller = pull("-o", str(path), "-n", "2")
    sender = push(puller.endpoint)
    sender.send(b'{"n":1}')
    wait_until(lambda: puller.counters()[0] == 1, "it is written")
    shutil.rmtree(path.parent)
    sender.send(b'{"n":2}')
    assert "No such file" in puller.wait_for_word("the senders have to wait")
    path.parent.mkdir()
    assert puller.end()[-1] == "2 events written"
    assert lines_in(path) == [b'{"n":2}']


@pytest.mark.parametrize("what", ["removed", "renamed"])
def test_a_fifo_that_is_taken_away_is_made_anew(
    what: str, pull: Pull, push: Push, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    puller = pull("-o", str(fifo))
    if what == "removed":
        fifo.unlink()
    else:
        fifo.rename(tmp_path / "old")
    push(puller.endpoint).send(b"{}")
    puller.wait_for_word(ANEW)
    with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb") as reading:
        wait_until(lambda: unread(reading.fileno()), "it is written")
        assert reading.read(3) == b"{}\n"


def test_what_a_removed_file_had_of_a_chunk_is_written_again_before_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed between the write and the end of the sync."""
    path = tmp_path / "events"
    offer = Offer(b"peer", ALICE, 1, 1, [b'{"n":1}'])
    real_sync, removals = os.fsync, iter([path])

    def remove_and_sync(descriptor: int) -> None:
        for file in removals:
            file.unlink()
        real_sync(descriptor)

    async def keep() -> dict[bytes, int]:
        return await File(str(path)).keep([offer])

    monkeypatch.setattr(os, "fsync", remove_and_sync)
    assert asyncio.run(keep()) == {ALICE: 1}
    assert path.read_bytes() == b'{"n":1}\n'


def test_the_name_of_a_new_file_is_on_the_disk_before_anything_in_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a loss of power takes the file away. Once is enough, but for each file."""
    path, real_sync = tmp_path / "events", os.fsync
    synced: list[str] = []
    offers = [Offer(b"peer", ALICE, n, 1, [b'{"n":%d}' % n]) for n in range(1, 5)]

    def sync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_sync(descriptor)

    async def keep() -> None:
        sink = File(str(path))
        for number, offer in enumerate(offers):
            if number == 2:
                path.unlink()
            assert await sink.keep([offer]) == {ALICE: offer.number}
        sink.close()

    monkeypatch.setattr(os, "fsync", sync)
    asyncio.run(keep())
    assert synced == [str(path), str(tmp_path), str(path)] * 2
    synced.clear()
    offers = offers[:1]
    asyncio.run(keep())
    assert synced == [str(path)], "it was there"


def test_a_control_character_in_a_name_does_not_reach_the_terminal(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    path = tmp_path / "\x1b[31mred"
    puller = pull("-o", str(path), "--sqlite", f"{path}.db")
    push(puller.endpoint).send(b"{}")
    wait_until(lambda: puller.counters()[0] == 1, "it is written")
    for name in (path, Path(f"{path}.db")):
        name.unlink()
    push(puller.endpoint).send(b"{}")
    wait_until(lambda: puller.counters()[0] == 2, "it is written")
    told = [line for line in puller.end(signal.SIGTERM) if ANEW in line]
    assert told == [f"{tmp_path}/\\x1b[31mred{end}: {ANEW}" for end in ("", ".db")]


def test_a_control_character_in_a_name_that_cannot_be_opened_is_made_readable(ship: Ship) -> None:
    for option in ("--output", "--sqlite", "--dead-letter", "--pid-file"):
        result = ship("-b", ANY_PORT, option, "/nowhere/\x1b[31m", program=PROGRAM).finish()
        assert result.status == 2
        assert "/nowhere/\\x1b[31m: " in result.stderr
    result = ship("-b", "ipc:///nowhere/\x1b[31m", program=PROGRAM).finish()
    assert result.stderr == "zmqpull.py: ipc:///nowhere/\\x1b[31m: No such file or directory\n"


@pytest.mark.long
def test_half_a_line_of_one_who_was_killed_does_not_spoil_the_next(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b'{"a":1}\n{"b":')
    puller = pull("-o", str(path), "-n", "2")
    send(push(puller.endpoint), numbered(2))
    puller.end()
    assert lines_in(path) == [b'{"a":1}', b'{"b":', *numbered(2)]


# ---- a full disk ------------------------------------------------------------------------------


TORN = b"x" * 4096  # of somebody who was killed; a whole page, so that not a byte more has room


class FullDisk(SmallDisk):
    """A full disk with a file on it whose last line is not ended."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 256 * 1024, files={"file": TORN}, is_full=True)
        self.path = self.folder / "file"

    def seen_by(self, puller: Puller) -> Path:
        """The file, from outside."""
        return self.seen(puller.pid) / "file"


@pytest.fixture
def full_disk(tmp_path: Path) -> FullDisk:
    return FullDisk(tmp_path)


@pytest.mark.long
def test_a_full_disk_is_said_once_holds_back_and_tears_no_line(
    full_disk: FullDisk, pull: Pull, push: Push
) -> None:
    puller = pull("-o", str(full_disk.path), "-n", "200", executable=full_disk.python)
    events = numbered(200, size=600)
    full_disk.make_room(puller.pid, 3 * 4096)
    sender = push(puller.endpoint)
    send(sender, events[:100])
    puller.wait_for_word("No space")
    wait_until_asleep(puller.pid)
    assert full_disk.seen_by(puller).read_bytes().count(b"\n") < 100
    full_disk.make_room(puller.pid)
    puller.wait_for_word("going on")
    send(sender, events[100:199])
    wait_until(lambda: puller.counters()[0] == 199, "all is written")
    path = full_disk.seen_by(puller)
    assert lines_in(path) == [TORN, *events[:199]]
    send(sender, events[199:])
    assert [line for line in puller.end() if " in hand" not in line] == [
        f"{full_disk.path}: No space left on device; the senders have to wait",
        f"{full_disk.path}: going on",
        "200 events written",
    ]


@pytest.mark.long
def test_it_may_begin_on_a_full_disk_behind_half_a_line(
    full_disk: FullDisk, pull: Pull, push: Push
) -> None:
    puller = pull("-o", str(full_disk.path), executable=full_disk.python)
    push(puller.endpoint).send(b"{}")
    puller.wait_for_word("No space")
    assert full_disk.seen_by(puller).read_bytes() == TORN
    full_disk.make_room(puller.pid)
    puller.wait_for_word("going on")
    assert lines_in(full_disk.seen_by(puller)) == [TORN, b"{}"]


@pytest.mark.long
@pytest.mark.parametrize("rotate", [False, True], ids=["the same file", "another file"])
def test_sighup_on_a_full_disk_loses_no_event_and_spoils_none(
    rotate: bool, full_disk: FullDisk, pull: Pull, push: Push
) -> None:
    """What was half written is written again, behind the half or in the new file."""
    puller = pull("-o", str(full_disk.path), executable=full_disk.python)
    full_disk.make_room(puller.pid, 2 * 4096)
    (event,) = numbered(1, size=60_000)
    push(puller.endpoint).send(event)
    puller.wait_for_word("No space")
    path = full_disk.seen_by(puller)
    old = path.with_name("old")
    if rotate:
        path.rename(old)
    puller.signal(signal.SIGHUP)
    assert puller.counters()[2] == 1
    full_disk.make_room(puller.pid)
    puller.wait_for_word("going on")
    if rotate:
        assert lines_in(path) == [event]
        torn, half = old.read_bytes().split(b"\n")
    else:
        torn, half, whole = lines_in(path)
        assert whole == event
    assert torn == TORN
    assert half
    assert event.startswith(half)


# ---- records in memory, and what is synced ----------------------------------------------------


def _fail_to_sync(descriptor: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_sink_that_cannot_sync_has_not_kept_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk did not take is written again: the kernel may have dropped it (fsync(2))."""
    offer = Offer(b"peer", ALICE, 1, 1, [b'{"n":1}'])
    with open(tmp_path / "events", "ab") as file:
        sink = Descriptor(file.fileno(), "a file")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _fail_to_sync)
            with pytest.raises(Trouble, match="Input/output error"):
                asyncio.run(sink.keep([offer]))
        assert not offer.is_new
        assert asyncio.run(sink.keep([offer])) == {ALICE: 1}
    assert offer.is_new
    assert (tmp_path / "events").read_bytes() == b'{"n":1}\n' * 2


@pytest.mark.parametrize("fails", [False, True], ids=["", "in vain"])
def test_file_that_is_renamed_while_it_is_synced_is_left_when_that_has_ended(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sync in vain was for is written again, to the new file."""
    path, old = tmp_path / "events", tmp_path / "old"
    offers = [Offer(b"peer", ALICE, n, 1, [b'{"n":%d}' % n]) for n in (1, 2)]
    synced: list[int] = []  # inodes
    begun, go_on = threading.Event(), threading.Event()

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return
        synced.append(os.fstat(descriptor).st_ino)
        begun.set()
        assert go_on.wait(DEADLINE_S)
        if fails and len(synced) == 1:
            _fail_to_sync(descriptor)

    async def rotate() -> None:
        sink = File(str(path))
        keeping = asyncio.ensure_future(sink.keep(offers[:1]))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait)
        path.rename(old)
        sink.reopen()
        assert not path.exists()
        go_on.set()
        if fails:
            with pytest.raises(Trouble):
                await keeping
            assert await sink.keep(offers[:1]) == {ALICE: 1}
        else:
            assert await keeping == {ALICE: 1}
        assert await sink.keep(offers[1:]) == {ALICE: 2}

    monkeypatch.setattr(os, "fsync", sync)
    asyncio.run(rotate())
    assert synced == [file.stat().st_ino for file in ((old, path, path) if fails else (old, path))]
    assert old.read_bytes() == b'{"n":1}\n'
    assert path.read_bytes() == (b'{"n":1}\n' if fails else b"") + b'{"n":2}\n'


def test_file_remembers_ten_thousand_shippers_and_forgetting_one_stops_nothing() -> None:
    def offer(shipper: int, number: int) -> Offer:
        return Offer(b"peer", shipper.to_bytes(16, "big"), number, number, [b"{}"])

    with open(os.devnull, "wb") as nothing:
        sink = Descriptor(nothing.fileno(), "nothing")
        again = [offer(serial, 1) for serial in (0, 1, 10_000)]
        later = offer(0, 7)
        for offers in ([offer(serial, 1) for serial in range(10_001)], again, [later]):
            asyncio.run(sink.keep(offers))
    assert [offer.is_new for offer in again] == [True, False, False]
    assert later.is_new

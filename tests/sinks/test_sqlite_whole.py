"""An SQLite file is whole when its collector has ended, and what is taken away is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.sinks.helpers import ask
from tests.support.ack import ALICE, BOB, OurShippers
from tests.support.aliases import Ship
from tests.support.ending import end
from tests.support.net import free_endpoint
from tests.support.places import InSqlite
from tests.support.pulling import ANY_PORT, PROGRAM, Pull, Push, numbered, send
from tests.support.waiting import DEADLINE_S, wait_until
from zmqlines.ack import Offer
from zmqlines.sinks.contract import Refused
from zmqlines.sinks.sqlite import Sqlite

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

ANEW = "it was removed or renamed; going on in a new file"


def rows(path: Path) -> list[bytes]:
    return [text.encode() for (text,) in ask(path, "SELECT event FROM event ORDER BY id")]


def has(path: Path, count: int) -> bool:
    """Whether so many events are there; the file need not be there yet."""
    with contextlib.suppress(sqlite3.OperationalError):
        return len(rows(path)) == count
    return False


def alone(path: Path, tmp_path: Path) -> Path:
    """A copy of the file without those beside it, which must not be there either."""
    beside = sorted(each.name for each in path.parent.glob(f"{path.name}*"))
    assert beside == [path.name], "it is closed: nothing lies beside it"
    return Path(shutil.copy(path, tmp_path / "alone.db"))


# ---- every way to end -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_it_is_one_file_with_everything_in_it(
    number: signal.Signals, pull: Pull, push: Push, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    puller = pull("--sqlite", str(path))
    send(push(puller.endpoint), numbered(500))
    wait_until(lambda: puller.counters()[0] == 500, "all is written")
    puller.end(number)
    assert rows(alone(path, tmp_path)) == numbered(500)


def test_after_n_events_it_is_one_file_with_everything_in_it(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    puller = pull("--sqlite", str(path), "-n", "500")
    send(push(puller.endpoint), numbered(500))
    puller.end()
    assert rows(alone(path, tmp_path)) == numbered(500)


@pytest.mark.long
def test_with_ack_it_is_one_file_and_can_be_moved_when_the_collector_has_ended(
    ship: Ship, pull_ack: Ship, tmp_path: Path
) -> None:
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    collector = pull_ack(endpoint, *place.options)
    result = ship("--ack", "-c", endpoint).finish(b"x\n" * 21_000)
    assert result.status == 0
    end(collector)
    assert len(rows(alone(tmp_path / "events.db", tmp_path))) == 21_000


def test_when_the_reader_of_another_sink_has_gone_it_is_one_file(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    puller = pull("--sqlite", str(path), "-o", "/dev/stdout")
    sender = push(puller.endpoint)
    send(sender, numbered(3))
    assert puller.read(3) == numbered(3)
    puller.process.stdout.close()  # type: ignore[union-attr]
    send(sender, numbered(1, 3))
    puller.process.wait(DEADLINE_S)
    assert rows(alone(path, tmp_path))[:3] == numbered(3)


def test_when_the_endpoint_cannot_be_bound_it_is_one_file(ship: Ship, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    result = ship("-b", "ipc:///nowhere/at/all", "--sqlite", str(path), program=PROGRAM).finish()
    assert result.status == 2
    alone(path, tmp_path)


# ---- taken away -------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["removed", "renamed", "replaced"])
def test_a_database_that_is_taken_away_is_made_anew_and_told(
    what: str, pull: Pull, push: Push, tmp_path: Path
) -> None:
    path, old = tmp_path / "events.db", tmp_path / "old.db"
    puller = pull("--sqlite", str(path))
    sender = push(puller.endpoint)
    send(sender, numbered(5))
    wait_until(lambda: puller.counters()[0] == 5, "all is written")
    if what == "removed":
        path.unlink()
    elif what == "renamed":
        path.rename(old)
    else:
        (tmp_path / "other.db").touch()
        (tmp_path / "other.db").rename(path)
    send(sender, numbered(5, 5))
    assert puller.wait_for_word(ANEW) == f"{path}: {ANEW}"
    wait_until(lambda: puller.counters()[0] == 10, "all is written")
    assert puller.end(signal.SIGTERM)[-1] == "10 events written"
    assert rows(alone(path, tmp_path)) == numbered(5, 5)
    if what == "renamed":
        assert rows(alone(old, tmp_path)) == numbered(5)


def test_a_log_that_is_removed_loses_nothing(pull: Pull, push: Push, tmp_path: Path) -> None:
    """What is in it goes into the file before another one is begun."""
    path = tmp_path / "events.db"
    puller = pull("--sqlite", str(path))
    sender = push(puller.endpoint)
    send(sender, numbered(5))
    wait_until(lambda: puller.counters()[0] == 5, "all is written")
    os.unlink(f"{path}-wal")
    send(sender, numbered(5, 5))
    wait_until(lambda: puller.counters()[0] == 10, "all is written")
    assert rows(path) == numbered(10)
    puller.end(signal.SIGTERM)
    assert rows(alone(path, tmp_path)) == numbered(10)


def test_sighup_leaves_the_renamed_database_whole_and_begins_a_new_one(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    path, old = tmp_path / "events.db", tmp_path / "old.db"
    puller = pull("--sqlite", str(path))
    sender = push(puller.endpoint)
    send(sender, numbered(5))
    wait_until(lambda: puller.counters()[0] == 5, "all is written")
    path.rename(old)
    puller.signal(signal.SIGHUP)
    wait_until(path.exists, "it is made anew")
    wait_until(lambda: not Path(f"{old}-wal").exists(), "the old one is closed")
    assert rows(alone(old, tmp_path)) == numbered(5)
    send(sender, numbered(5, 5))
    wait_until(lambda: has(path, 5), "all is written")
    assert [line for line in puller.end(signal.SIGTERM) if " in hand" not in line] == [
        "10 events written"
    ]
    assert rows(alone(path, tmp_path)) == numbered(5, 5)


def test_a_renamed_database_that_somebody_reads_is_left_when_it_can_be_whole(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    path, old = tmp_path / "events.db", tmp_path / "old.db"
    puller = pull("--sqlite", str(path), "-n", "10")
    sender = push(puller.endpoint)
    send(sender, numbered(5))
    wait_until(lambda: puller.counters()[0] == 5, "all is written")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM event").fetchall()
        path.rename(old)
        send(sender, numbered(5, 5))
        said = puller.wait_for_word("the senders have to wait")
        assert "it was renamed while another program reads it" in said
        reader.execute("ROLLBACK")
    assert puller.end()[-1] == "10 events written"
    assert rows(alone(path, tmp_path)) == numbered(5, 5)
    assert rows(alone(old, tmp_path)) == numbered(5)


@pytest.mark.long
def test_two_collectors_whose_database_is_renamed_go_on_in_the_same_new_one(
    our_shipper: OurShippers, pull_ack: Ship, tmp_path: Path
) -> None:
    """What lies beside the new one is not what one of them still has of the old one."""
    path, old = tmp_path / "events.db", tmp_path / "old.db"
    endpoints = [free_endpoint(), free_endpoint()]
    collectors = [pull_ack(endpoint, "--sqlite", str(path)) for endpoint in endpoints]
    shippers = [our_shipper(endpoint) for endpoint in endpoints]
    expected: dict[Path, list[bytes]] = {old: [], path: []}
    for number in range(1, 7):
        if number == 4:
            path.rename(old)
        for shipper, who in zip(shippers, (ALICE, BOB)):
            event = b'{"n":"%b %d"}' % (who[:3], number)
            shipper.offer(who, number, 1, event)
            shipper.answers((who, number))
            expected[old if number < 4 else path].append(event)
    for collector in collectors:
        assert ANEW in collector.read_stderr_line()
        collector.signal(signal.SIGTERM)
        assert collector.finish().status == 0
    for database, events in expected.items():
        assert rows(alone(database, tmp_path)) == events
        assert ask(database, "PRAGMA integrity_check") == [("ok",)]


def test_a_folder_that_is_taken_away_holds_back_until_it_is_there_again(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "events.db"
    puller = pull("--sqlite", str(path), "-n", "10")
    sender = push(puller.endpoint)
    send(sender, numbered(5))
    wait_until(lambda: puller.counters()[0] == 5, "all is written")
    shutil.rmtree(folder)
    send(sender, numbered(5, 5))
    assert "unable to open" in puller.wait_for_word("the senders have to wait")
    folder.mkdir()
    assert puller.end()[-1] == "10 events written"
    assert rows(alone(path, tmp_path)) == numbered(5, 5)


@pytest.mark.parametrize("what", ["removed", "renamed"])
def test_with_ack_no_chunk_is_missing_or_twice_when_the_database_is_taken_away(
    what: str, our_shipper: OurShippers, pull_ack: Ship, tmp_path: Path
) -> None:
    """The records go along: a repeated chunk is known in the new file, too."""
    endpoint, path, old = free_endpoint(), tmp_path / "events.db", tmp_path / "old.db"
    collector = pull_ack(endpoint, "--sqlite", str(path))
    shipper = our_shipper(endpoint)
    for number in (1, 2):
        shipper.offer(ALICE, number, 1, b'{"n":%d}' % number)
        assert shipper.answer() == (ALICE, number)
    if what == "removed":
        path.unlink()
    else:
        path.rename(old)
    for number in (2, 3):
        shipper.offer(ALICE, number, 1, b'{"n":%d}' % number)
    shipper.answers((ALICE, 3))
    assert ANEW in collector.read_stderr_line()
    end(collector)
    assert rows(alone(path, tmp_path)) == [b'{"n":3}']
    if what == "renamed":
        assert rows(alone(old, tmp_path)) == [b'{"n":1}', b'{"n":2}']


# ---- refused for ever -------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.skipif(not hasattr(sqlite3.Connection, "setlimit"), reason="Python 3.11 has it")
def test_an_event_that_sqlite_will_never_take_is_named_and_all_others_are_kept(
    tmp_path: Path,
) -> None:
    """Its limit is 1 GB; here it is made less."""
    events = [b'{"n":1}', b'{"message":"%b"}' % (b"x" * 6000), b'{"n":2}']
    offer = Offer(b"peer", ALICE, 1, 1, events)

    async def keep() -> None:
        sink = Sqlite(str(tmp_path / "events.db"))
        sink._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)  # of a row: the message is in twice
        for attempt in (sink.write(events), sink.keep([offer])):
            with pytest.raises(Refused, match="too big") as refused:
                await attempt
            assert refused.value.event is events[1]
        assert not offer.is_new
        sink.put_away = frozenset([id(events[1])])
        assert await sink.keep([offer]) == {ALICE: 1}
        sink.close()

    asyncio.run(keep())
    assert rows(tmp_path / "events.db") == [b'{"n":1}', b'{"n":2}']


# ---- another program's ------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["event", "anything"])
def test_another_programs_database_is_refused_and_not_changed(
    table: str, ship: Ship, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.db"
    with contextlib.closing(sqlite3.connect(path)) as theirs:
        theirs.execute(f"CREATE TABLE {table} (x)")
        theirs.commit()
    before = path.read_bytes()
    result = ship("-b", ANY_PORT, "--sqlite", str(path), program=PROGRAM).finish()
    assert result.status == 2
    assert result.stderr == f"zmqpull.py: --sqlite {path}: it is another program's database\n"
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.glob("theirs*")] == ["theirs.db"]


def test_a_database_of_a_newer_version_is_refused(ship: Ship, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    command = ["-b", ANY_PORT, "--sqlite", str(path)]
    first = ship(*command, program=PROGRAM)
    wait_until(lambda: has(path, 0), "it is made")
    first.signal(signal.SIGTERM)
    first.finish()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 2")
    result = ship(*command, program=PROGRAM).finish()
    assert result.status == 2
    assert "its tables are of version 2, this program knows 1" in result.stderr


def test_the_application_id_tells_what_the_file_is(pull: Pull, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    pull("--sqlite", str(path)).end(signal.SIGTERM)
    assert path.read_bytes()[68:72] == b"zmqp"  # SQLite's file format, 1.3
    if shutil.which("sqlite3"):
        check = subprocess.run(
            ["sqlite3", str(path), "PRAGMA integrity_check"], capture_output=True, check=True
        )
        assert check.stdout == b"ok\n"

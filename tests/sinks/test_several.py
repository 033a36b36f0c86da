"""Several sinks at once: each gets everything, and the slowest sets the pace."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from tests.sinks.helpers import ask, check_sleeps
from tests.support.ack import ALICE, OurShippers
from tests.support.aliases import Ship
from tests.support.ending import kill
from tests.support.net import free_endpoint
from tests.support.places import InSqlite, Place, options_of
from tests.support.pulling import Pull, Push, lines_in, numbered, send
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version


def test_all_of_several_sinks_get_everything(
    redis_server: RedisServer, pull: Pull, push: Push, tmp_path: Path
) -> None:
    redis_server.start()
    files = [tmp_path / name for name in ("one", "two")]
    databases = [tmp_path / name for name in ("one.db", "two.db")]
    puller = pull(
        *("--output", str(files[0]), "--sqlite", str(databases[0]), "--redis", redis_server.url),
        *("--output", str(files[1]), "--sqlite", str(databases[1]), "-n", "1000"),
    )
    send(push(puller.endpoint), numbered(1000))
    assert puller.end() == ["1000 events written"]
    expected = numbered(1000)
    assert [lines_in(path) for path in files] == [expected] * 2
    assert redis_server.list() == expected
    for path in databases:
        assert ask(path, "SELECT event FROM event ORDER BY id") == [
            (event.decode(),) for event in expected
        ]
    assert puller.finish().stdout == ""


def test_of_several_sinks_the_answer_is_what_the_last_of_them_has(
    places: list[Place], our_shipper: OurShippers, pull_ack: Ship
) -> None:
    """Here it is the file, whose record is in memory."""
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *options_of(places))
    shipper = our_shipper(endpoint)
    for number in (1, 2, 3):
        shipper.offer(ALICE, number, 1, b'{"message":"%d"}' % number)
        assert shipper.answer() == (ALICE, number)
    kill(collector)
    pull_ack(endpoint, *options_of(places))
    shipper = our_shipper(endpoint)
    shipper.ask(ALICE)
    assert shipper.answer() == (ALICE, 0)
    for number in (2, 3, 4):
        shipper.offer(ALICE, number, 2, b'{"message":"%d"}' % number)
        # When the other shipper is connected again, the last answer comes once more, with a credit.
        while (answer := shipper.answer()) != (ALICE, number):
            assert answer[1] in (0, number - 1)
    in_file, in_redis, in_sqlite = (place.messages() for place in places)
    assert in_file == ["1", "2", "3", "2", "3", "4"]
    assert in_redis == in_sqlite == ["1", "2", "3", "4"]


def test_nothing_is_answered_while_one_of_several_sinks_fails(
    places: list[Place], our_shipper: OurShippers, pull_ack: Ship
) -> None:
    endpoint, database = free_endpoint(), places[2]
    assert isinstance(database, InSqlite)
    collector = pull_ack(endpoint, *options_of(places))
    shipper = our_shipper(endpoint)
    shipper.ask(ALICE)
    assert shipper.answer() == (ALICE, 0)
    with database.locked():
        shipper.offer(ALICE, 1, 1, b'{"message":"1"}')
        assert "the senders have to wait" in collector.read_stderr_line()
        for place in places[:2]:
            place.wait_for(1)
        assert not shipper.socket.poll(500)
    assert shipper.answer() == (ALICE, 1)
    for place in places:
        assert place.messages() == ["1"]


@pytest.mark.long
def test_a_locked_database_holds_back_and_goes_on_and_other_sinks_get_nothing_twice(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    path, file = tmp_path / "events.db", tmp_path / "file"
    puller = pull("--sqlite", str(path), "-o", str(file), "-n", "10")
    sender = push(puller.endpoint)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        send(sender, numbered(5))
        begin = time.monotonic()
        puller.wait_for_word("the senders have to wait")
        assert time.monotonic() - begin < 3, "meanwhile it heard no signal"
        assert puller.counters()[0] == 0
        somebody.execute("ROLLBACK")
    send(sender, numbered(5, start=5))
    assert [line for line in puller.end() if " in hand" not in line] == [
        f"{path}: database is locked; the senders have to wait",
        f"{path}: going on",
        "10 events written",
    ]
    assert ask(path, "SELECT event FROM event ORDER BY id") == [
        (event.decode(),) for event in numbered(10)
    ]
    assert lines_in(file) == numbered(10)


@pytest.mark.long
def test_idle_nothing_wakes_it(
    redis_server: RedisServer, pull: Pull, push: Push, tmp_path: Path
) -> None:
    redis_server.start()
    sinks = ["-o", str(tmp_path / "file"), "--sqlite", str(tmp_path / "db")]
    puller = pull(*sinks, "--redis", redis_server.url)
    push(puller.endpoint).send(b"{}")
    wait_until(lambda: puller.counters() == (1, 2, 0), "the event is written")
    check_sleeps(puller.pid)

"""An SQLite file: its tables, its indexes, and somebody else who has it locked."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.sinks.helpers import ask
from tests.support.aliases import Ship
from tests.support.events import TAG, wrapped
from tests.support.proc import has_open
from tests.support.pulling import Pull, Push, send
from tests.support.waiting import wait_until

COLUMNS: list[tuple[str, str | None, str | None]] = [  # event, type, message
    ('{"type":"mail","message":"say \\"hi\\""}', "mail", 'say "hi"'),
    ("{}", None, None),
    ('{"type":null,"message":null}', None, None),
    ('{"type":5,"message":1.50}', "5", "1.50"),
    ('{"type":true,"message":false}', "true", "false"),
    ('{"message":{"a": [1, 2.50, "\\ud800"] } ,"type":[]}', "[]", '{"a": [1, 2.50, "\\ud800"] }'),
    (' { "x":{"type":1} , "type" : [ ] , "message":\t{}\t}', "[ ]", "{}"),
    ('{"type":"\\ud800","message":"\\udfff \\ud83d\\ude00"}', "\\ud800", "\\udfff 😀"),
    ('{"type":"","message":"a\\u0000b\\nc é\u2028"}', "", "a\0b\nc é\u2028"),
    ('{"message":1,"message":[2],"message":["3"]}', None, '["3"]'),
    ('{"type":%s}' % ("9" * 5000), "9" * 5000, None),
]


def test_a_row_has_the_time_the_type_the_message_and_the_whole_event(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    begin = datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:23]
    puller = pull("--sqlite", str(path), "-n", str(len(COLUMNS) + 1))
    sender = push(puller.endpoint)
    send(sender, [event.encode() for event, _, _ in COLUMNS])
    wait_until(lambda: puller.counters()[0] == len(COLUMNS), "the rows are there")
    sender.send(b"\xff")
    assert puller.end()[-1] == f"{len(COLUMNS) + 1} events written"
    end = datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:23]
    rows = ask(path, "SELECT event, type, message FROM event ORDER BY id")
    assert rows[:-1] == COLUMNS
    assert rows[-1] == (json.dumps(wrapped(b"\xff"), separators=(",", ":")), None, "\\xff")
    for (received,) in ask(path, "SELECT received FROM event"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", received)
        assert begin <= received[:-1] <= end


def test_the_table_is_indexed_by_time_and_by_type(pull: Pull, ship: Ship, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    for kind in ("mail", "web"):  # the second time the table is there
        puller = pull("--sqlite", str(path), "-n", "100")
        ship(kind, "-c", puller.endpoint).finish(b"x\n" * 100)
        puller.end()
    columns = ask(path, "SELECT name, type, \"notnull\", pk FROM pragma_table_info('event')")
    assert columns == [
        ("id", "INTEGER", 0, 1),
        ("received", "TEXT", 1, 0),
        ("type", "TEXT", 0, 0),
        ("message", "TEXT", 0, 0),
        ("event", "TEXT", 1, 0),
    ]
    assert ask(path, "SELECT type, count(*) FROM event GROUP BY type") == [
        ("mail", 100),
        ("web", 100),
    ]
    for where, index in (
        ("type = 'web' AND received > '2000'", "event_type"),
        ("received > '2000'", "event_received"),
    ):
        ((*_, plan),) = ask(path, f"EXPLAIN QUERY PLAN SELECT event FROM event WHERE {where}")
        assert f"USING INDEX {index} " in plan


def test_an_event_that_can_only_just_be_read_does_not_end_it(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    """It is read again with more, or less, on the stack."""
    path = tmp_path / "events.db"
    puller = pull("--output", "/dev/stdout", "--sqlite", str(path))
    sender = push(puller.endpoint)
    depths = range(940, 1000)
    for depth in depths:
        sender.send(b'{"message":%b{"n":1}%b}' % (b"[" * depth, b"]" * depth))
        puller.read(1)
    puller.end(signal.SIGTERM)
    rows = ask(path, "SELECT event, message FROM event")
    assert len(rows) == len(depths)
    for event, message in rows:
        assert message is None or message in event or TAG[0] in event


def test_a_database_that_somebody_else_is_making_is_waited_for(pull: Pull, tmp_path: Path) -> None:
    """Several may be started at once."""
    path = tmp_path / "events.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as somebody:
        somebody.execute("BEGIN EXCLUSIVE")
        puller = pull("--bind", f"ipc://{tmp_path}/socket", "--sqlite", str(path))
        wait_until(lambda: has_open(puller.pid, str(path)), "it opens the database")
        with pytest.raises(subprocess.TimeoutExpired):
            puller.process.wait(0.3)
        somebody.execute("ROLLBACK")
    assert puller.end(signal.SIGINT) == ["0 events written"]
    assert ask(path, "SELECT * FROM event") == []


@pytest.mark.parametrize("ack", [[], ["--ack"]], ids=["plain", "ack"])
def test_a_database_that_is_locked_for_long_ends_nobody_who_begins(
    ack: list[str], pull: Pull, ship: Ship, tmp_path: Path
) -> None:
    """Whoever shares it may have been stopped in the middle of a transaction."""
    path = tmp_path / "events.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as somebody:
        somebody.execute("BEGIN EXCLUSIVE")
        puller = pull(*ack, "--sqlite", str(path))
        said = puller.wait_for_word("the senders have to wait")
        assert said == f"{path}: database is locked; the senders have to wait"
        shipper = ship(*ack, "-c", puller.endpoint)
        shipper.write(b"x\n")
        shipper.end_input()
        somebody.execute("ROLLBACK")
    assert shipper.finish().status == 0
    puller.wait_for_word(f"{path}: going on")
    wait_until(lambda: puller.counters()[0] == 1, "the event is written")
    puller.end(signal.SIGTERM)
    assert ask(path, "SELECT message FROM event") == [("x",)]


def test_while_the_database_is_locked_a_signal_is_heard(pull: Pull, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as somebody:
        somebody.execute("BEGIN EXCLUSIVE")
        puller = pull("--sqlite", str(path))
        puller.wait_for_word("the senders have to wait")
        assert puller.end(signal.SIGTERM)[-1] == "0 events written"

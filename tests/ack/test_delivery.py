"""Both ends together: every line arrives once and in order, whatever it is.

Idle, nothing wakes them. A sink that takes nothing holds the acknowledgement back.
"""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.ack.helpers import PATIENCE_S, Feeder, as_input, texts, trouble
from tests.support.aliases import Ship
from tests.support.ending import end
from tests.support.endpoints import address_of
from tests.support.net import free_endpoint, wait_for_connections
from tests.support.places import InFile, InSqlite, Place, options_of
from tests.support.proc import has_open, memory, wait_until_asleep, wait_until_woken, wakeups
from tests.support.waiting import wait_until


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [[], ["--batch", "500"], ["--format", "json"], ["--format", "raw"], ["--spool", "SPOOL"]],
    ids=" ".join,
)
def test_every_line_arrives_once_and_in_order(
    options: list[str], places: list[Place], tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *options_of(places))
    options = [str(tmp_path / word) if word == "SPOOL" else word for word in options]
    expected = texts(10_000)
    result = ship("--ack", "-c", endpoint, *options).finish(as_input(expected))
    for place in places:
        assert place.messages() == expected
    assert (result.status, result.processed) == (0, 10_000)
    assert end(collector) == "zmqpull.py: 10000 events written\n"


@pytest.mark.long
def test_lines_of_a_million_bytes_arrive(places: list[Place], pull_ack: Ship, ship: Ship) -> None:
    endpoint = free_endpoint()
    pull_ack(endpoint, *options_of(places))
    expected = [f"{number}" * 1_000_000 for number in range(10)]
    result = ship("--ack", "-c", endpoint).finish(as_input(expected))
    for place in places:
        assert place.messages() == expected
    assert (result.status, result.processed) == (0, 10)


@pytest.mark.long
@pytest.mark.parametrize("form", ["logstash", "json", "raw"])
def test_empty_lines_arrive(form: str, tmp_path: Path, pull_ack: Ship, ship: Ship) -> None:
    endpoint = free_endpoint()
    place = InFile(tmp_path / "events")
    pull_ack(endpoint, *place.options)
    shipper = ship("--ack", "-c", endpoint, "--format", form)
    shipper.write(b"\n")  # a chunk of its own
    place.wait_for(1)
    result = shipper.finish(b"\n\nx\n\n")
    assert place.messages() == ["", "", "", "x", ""]
    assert (result.status, result.processed) == (0, 5)


@pytest.mark.long
def test_raw_objects_and_arrays_are_events_as_they_are(
    tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """An empty array is none; but it is acknowledged."""
    endpoint = free_endpoint()
    place = InFile(tmp_path / "events")
    pull_ack(endpoint, *place.options)
    shipper = ship("--ack", "-c", endpoint, "--format", "raw")
    result = shipper.finish(b'{"a":1}\n[{"b":2},{"c":3}]\n[]\n')
    assert place.events() == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
    assert (result.status, result.processed) == (0, 3)


# ---- idle, and held back ----------------------------------------------------------------------


@pytest.mark.long
def test_idle_and_connected_nothing_wakes_either_end(
    hasty: str, places: list[Place], pull_ack: Ship, ship: Ship
) -> None:
    """When nothing waits for an answer there is no timer, either."""
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *options_of(places))
    shipper = ship("--ack", "-c", endpoint, program=hasty)
    for serial in (1, 2):
        shipper.write(b"x\n")
        for place in places:
            place.wait_for(serial)
        for pid in (shipper.pid, collector.pid):
            wait_until_asleep(pid)
        for pid in (shipper.pid, collector.pid):
            main, _ = wakeups(pid, 3 * PATIENCE_S)
            assert main == 0
    assert shipper.finish().status == 0


@pytest.mark.long
def test_file_that_takes_no_more_holds_the_acknowledgement_back(
    tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """As a full disk does; here it is a limit (setrlimit(2)) that is lifted later."""
    endpoint, place = free_endpoint(), InFile(tmp_path / "events")
    limit = (100_000, resource.RLIM_INFINITY)
    collector = pull_ack(
        endpoint,
        *place.options,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    shipper = ship("--ack", "-c", endpoint)
    expected = texts(10_000)
    shipper.write(as_input(expected))
    shipper.end_input()
    said = collector.read_stderr_line()
    assert said.endswith(f"{place.options[1]}: File too large; the senders have to wait\n")
    assert "; 10000 messages wait " in shipper.read_stderr_line()
    assert shipper.process.poll() is None
    resource.prlimit(collector.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    result = shipper.finish()
    assert place.messages() == expected
    assert (result.status, result.processed, trouble(result)) == (0, 10_000, "")
    assert "going on" in end(collector)


@pytest.mark.long
def test_locked_database_holds_the_acknowledgement_back_and_is_not_given_everything_anew(
    hasty: str, tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """The shipper tries again and again, as it has nobody else: that costs the collector little."""
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    collector = pull_ack(endpoint, *place.options)
    place.wait_until_made()
    expected = texts(60_000, size=50)
    with place.locked():
        shipper = ship("--ack", "-c", endpoint, program=hasty)
        Feeder(shipper, as_input(expected))
        said = collector.read_stderr_line()
        assert said.endswith("database is locked; the senders have to wait\n")
        _, port = address_of(endpoint)
        wait_for_connections(port, 1)
        before = memory(collector.pid)
        wait_for_connections(port, 2)
        assert memory(collector.pid) - before < 1_000_000
        assert shipper.process.poll() is None
    result = shipper.finish()
    assert place.messages() == expected
    assert (result.status, result.processed) == (0, len(expected))
    assert "going on" in end(collector)


@pytest.mark.long
def test_database_in_use_when_a_collector_begins_is_waited_for(
    tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """Two may begin at once, with a new one."""
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    with place.open() as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("CREATE TABLE other (name)")
        collector = pull_ack(endpoint, *place.options)
        path = place.options[1]
        wait_until(lambda: has_open(collector.pid, path), "the collector has opened it")
        wait_until_woken(collector.pid, 6)  # it has tried several times
        db.execute("COMMIT")
    assert ship("--ack", "-c", endpoint).finish(b"x\n").status == 0
    assert place.messages() == ["x"]

"""A shipper that has delivered everything and ends is forgotten; one that may come back is not."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.ack.helpers import as_input, check_all_safe, send_chunks, trouble
from tests.support.ack import (
    ALICE,
    FAREWELL,
    GOODBYE,
    REFUSAL,
    VERSION,
    OurCollector,
    OurShippers,
    answer,
    header,
)
from tests.support.aliases import Ship
from tests.support.ending import end, kill
from tests.support.net import free_endpoint
from tests.support.places import InFile, InRedis, InSqlite, Place

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


def records_in(place: Place) -> int:
    """How many shippers a store that lasts remembers."""
    if isinstance(place, InSqlite):
        return len(place.records())
    assert isinstance(place, InRedis)
    return place.records()


@pytest.mark.parametrize("place", ["redis", "sqlite"], indirect=True)
@pytest.mark.parametrize("has_spool", [False, True], ids=["memory", "spool"])
def test_who_comes_once_leaves_no_record(
    has_spool: bool, place: Place, tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """As from cron, on many hosts."""
    endpoint = free_endpoint()
    pull_ack(endpoint, *place.options)
    spool = ("--spool", str(tmp_path / "spool")) if has_spool else ()
    for text in ("1", "2"):
        result = ship("--ack", "-c", endpoint, *spool).finish(as_input([text]))
        assert (result.status, result.processed, trouble(result)) == (0, 1, "")
    assert place.messages() == ["1", "2"]
    assert records_in(place) == 0


def test_all_sinks_forget_who_said_goodbye(
    places: list[Place], our_shipper: OurShippers, pull_ack: Ship
) -> None:
    """Then what comes again is new, in each of them."""
    endpoint = free_endpoint()
    pull_ack(endpoint, *(word for place in places for word in place.options))
    shipper = our_shipper(endpoint)
    for _ in range(2):
        shipper.offer(ALICE, 1, 1, b'{"message":"x"}')
        assert shipper.answer() == (ALICE, 1)
        assert shipper.say_goodbye(ALICE, 1) == 0
    assert [place.messages() for place in places] == [["x", "x"]] * 3


def test_goodbye_for_what_is_not_all_there_changes_nothing(
    place: Place, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    endpoint = free_endpoint()
    pull_ack(endpoint, *place.options)
    shipper = our_shipper(endpoint)
    assert shipper.say_goodbye(ALICE, 1) == 0  # of whom nothing is known
    shipper.offer(ALICE, 1, 1, b'{"message":"x"}')
    assert shipper.answer() == (ALICE, 1)
    for last in (2, 2**64 - 1):
        assert shipper.say_goodbye(ALICE, last) == 1
    shipper.offer(ALICE, 1, 1, b'{"message":"x"}')
    assert shipper.answer() == (ALICE, 1)
    assert place.messages() == ["x"]


def test_goodbye_is_said_when_all_is_safe_and_the_farewell_ends_the_wait(
    our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint)
    *_, chunk = send_chunks(shipper, our_collector, b"1\n", b"2\n")
    our_collector.answer(chunk, 1)
    shipper.end_input()
    assert our_collector.is_silent(0.3)
    our_collector.answer(chunk, 2)
    goodbye = our_collector.receive()
    assert (goodbye.kind, goodbye.shipper) == (GOODBYE, chunk.shipper)
    assert (goodbye.number, goodbye.first, goodbye.texts) == (2, 0, [])
    our_collector.send(goodbye, answer(FAREWELL, chunk.shipper, 0))
    check_all_safe(shipper, 2)


def test_shipper_that_gets_no_farewell_ends_all_the_same(
    our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint)
    (chunk,) = send_chunks(shipper, our_collector, b"1\n")
    our_collector.answer(chunk, 1)
    check_all_safe(shipper, 1)


@pytest.mark.long
def test_no_goodbye_where_another_connection_may_have_a_copy(
    hasty: str, our_collector: OurCollector, ship: Ship
) -> None:
    """A collector that was stopped may yet read it, and only a record tells that it is old."""
    shipper = ship("--ack", "-c", our_collector.endpoint, program=hasty)
    (chunk,) = send_chunks(shipper, our_collector, b"1\n")
    while (question := our_collector.receive()).peer == chunk.peer:
        pass  # it asks, is not answered, and connects anew
    our_collector.answer(question, 0)
    again = our_collector.receive_chunk()
    assert (again.number, again.peer) == (1, question.peer)
    our_collector.answer(again, 1)
    check_all_safe(shipper, 1)
    assert our_collector.is_silent(0.3)


def test_no_goodbye_for_a_file_that_another_shipper_has_left(
    tmp_path: Path, our_collector: OurCollector, ship: Ship
) -> None:
    """What that has sent may still be on its way."""
    options = ("--ack", "-c", our_collector.endpoint, "--spool", str(tmp_path / "spool"))
    shipper = ship(*options)
    (chunk,) = send_chunks(shipper, our_collector, b"1\n")
    kill(shipper)
    shipper = ship(*options)
    shipper.end_input()
    again = our_collector.receive_chunk()
    assert (again.shipper, again.number) == (chunk.shipper, 1)
    our_collector.answer(again, 1)
    check_all_safe(shipper, 1)
    assert our_collector.is_silent(0.3)


# ---- another version --------------------------------------------------------------------------


def test_both_ends_say_that_the_versions_differ(
    our_shipper: OurShippers, pull_ack: Ship, tmp_path: Path
) -> None:
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *InFile(tmp_path / "events").options)
    shipper = our_shipper(endpoint)
    for _ in range(2):
        shipper.socket.send(header(GOODBYE, ALICE, 1, 0, version=3))
        assert shipper.socket.poll(5000)
        assert shipper.socket.recv() == bytes([VERSION, REFUSAL])
    why = "it speaks version 3, and this end version 2"
    assert collector.read_stderr_line() == f"zmqpull.py: a shipper does not fit: {why}\n"
    assert end(collector) == "zmqpull.py: 0 events written\n"


def test_shipper_says_that_the_collector_speaks_another_version(ship: Ship) -> None:
    with contextlib.closing(OurCollector()) as collector:
        shipper = ship("--ack", "-c", collector.endpoint)
        shipper.write(b"1\n")
        question = collector.receive()
        for _ in range(2):
            collector.send(question, bytes([3, REFUSAL]))
        why = "it speaks version 3, and this end version 2"
        said = shipper.read_stderr_line()
        assert said == f"zmqpush.py: {collector.endpoint} does not fit: {why}\n"

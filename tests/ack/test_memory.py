"""What a collector may have to hold is bounded, in bytes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.ack.helpers import Feeder, as_input, check_all_safe, send_chunks, texts
from tests.support.ack import ALICE, OurCollector, OurShipper
from tests.support.aliases import Ship
from tests.support.net import free_endpoint
from tests.support.places import InSqlite
from tests.support.proc import highest_memory, wait_until_asleep
from zmqlines.ack import Answer

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


MEBIBYTE = 1024 * 1024


def credit_of(shipper: OurShipper) -> int:
    """The one in the next answer."""
    assert shipper.socket.poll(20_000)
    return Answer.read(shipper.socket.recv_multipart()).credit


def test_shippers_share_what_there_is_and_are_told_when_they_become_more(
    tmp_path: Path, pull_ack: Ship
) -> None:
    endpoint = free_endpoint()
    pull_ack(endpoint, *InSqlite(tmp_path / "events.db").options, "--memory-limit", "1M")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(OurShipper(endpoint)))
        first.ask(ALICE)
        assert credit_of(first) == MEBIBYTE // 2
        credits_told = []
        for count in range(2, 9):
            shipper = stack.enter_context(contextlib.closing(OurShipper(endpoint)))
            shipper.ask(count.to_bytes(16, "big"))
            assert credit_of(shipper) == MEBIBYTE // 2 // count
            while first.socket.poll(100):
                credits_told.append(credit_of(first))
        assert credits_told == [MEBIBYTE // 2 // count for count in (2, 4, 8)]


def test_shipper_keeps_to_its_credit(our_collector: OurCollector, ship: Ship) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint, "--format", "raw")
    (first,) = send_chunks(shipper, our_collector, b"x\n")
    our_collector.answer(first, 1, credit=250)
    wait_until_asleep(shipper.pid)
    for text in (b"a", b"b", b"c"):
        shipper.write(text * 100 + b"\n")
        wait_until_asleep(shipper.pid)
    assert [our_collector.receive_chunk().number for _ in range(2)] == [2, 3]
    assert our_collector.is_silent(0.5)
    our_collector.answer(first, 2, credit=250)
    last = our_collector.receive_chunk()
    assert (last.number, last.texts) == (4, [b"c" * 100])
    our_collector.answer(last, 4)
    check_all_safe(shipper, 4)


@pytest.mark.long
def test_stuck_sink_and_many_shippers_of_large_lines_take_no_more_than_the_limit(
    tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    collector = pull_ack(endpoint, *place.options, "--memory-limit", "16M")
    place.wait_until_made()
    shippers = [ship("--ack", "-c", endpoint, "--queue-limit", "4M") for _ in range(10)]
    for shipper in shippers:
        shipper.write(b"first\n")
    place.wait_for(10)
    before = highest_memory(collector.pid)
    large = as_input(texts(20, size=500_000))
    with place.locked():
        for shipper in shippers:
            Feeder(shipper, large)
        assert "the senders have to wait" in collector.read_stderr_line()
        for shipper in shippers:
            wait_until_asleep(shipper.pid)
        # Without a limit it is 46 MB here. A chunk may be larger than its share.
        assert highest_memory(collector.pid) - before < 30 * MEBIBYTE
    for shipper in shippers:
        assert shipper.finish().processed == 21


def test_who_sends_more_than_a_message_may_have_is_cut_off_and_told(
    tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    endpoint, place = free_endpoint(), InSqlite(tmp_path / "events.db")
    collector = pull_ack(endpoint, *place.options, "--max-message", "1M")
    shipper = ship("--ack", "-c", endpoint, "--max-line", "0")
    shipper.write(b"x" * 2 * MEBIBYTE + b"\n")
    assert "more than its --max-message?" in shipper.read_stderr_line()
    assert ship("--ack", "-c", endpoint).finish(b"y\n").processed == 1
    assert place.messages() == ["y"]
    assert highest_memory(collector.pid) < 100 * MEBIBYTE

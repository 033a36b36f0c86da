"""The shipper's window: which chunks it gives when, and which are safe."""

from __future__ import annotations

import pytest

from tests.ack.helpers import chunk_of
from tests.support.ack import ALICE, BOB, HEADER, LINES, ONE, QUESTION, header
from zmqlines.ack import WINDOW_CHUNKS, Window
from zmqlines.finished import Finished


def window_of(**numbers: list[int]) -> Window:
    """A window with chunks of `alice` and `bob`."""
    window = Window()
    for name, its_numbers in numbers.items():
        for number in its_numbers:
            window.add({"alice": ALICE, "bob": BOB}[name], chunk_of(number, b"%d" % number))
    return window


def given_by(window: Window) -> list[tuple[bytes, int, int]]:
    """Shipper, number and first of the messages that it has to give."""
    return [HEADER.unpack(frames[0])[4:7] for frames in iter(window.message, None)]


def test_window_gives_each_chunk_once_and_in_order() -> None:
    window = window_of(alice=[1, 2], bob=[7])
    assert given_by(window) == [(ALICE, 1, 1), (ALICE, 2, 1), (BOB, 7, 7)]
    assert window.message() is None
    window.add(ALICE, chunk_of(3, b"x"))
    assert given_by(window) == [(ALICE, 3, 1)]


def test_window_gives_a_new_connection_all_that_is_not_safe() -> None:
    window = window_of(alice=[1, 2, 3], bob=[7, 8])
    given_by(window)
    window.safe(ALICE, 1)
    window.again()
    window.again()
    given = given_by(window)
    assert [place for place in given if place[0] == ALICE] == [(ALICE, 2, 2), (ALICE, 3, 2)]
    assert [place for place in given if place[0] == BOB] == [(BOB, 7, 7), (BOB, 8, 7)]


def test_window_does_not_give_what_became_safe_before_its_turn() -> None:
    window = window_of(alice=[1, 2, 3], bob=[7])
    window.safe(ALICE, 2)
    window.safe(BOB, 7)
    assert given_by(window) == [(ALICE, 3, 3)]


def test_window_says_the_first_number_that_it_holds_even_where_numbers_are_missing() -> None:
    window = window_of(alice=[5, 6, 9])
    window.safe(ALICE, 6)
    assert given_by(window) == [(ALICE, 9, 9)]


@pytest.mark.parametrize("number", [0, 4])
def test_answer_below_what_is_held_makes_nothing_safe(number: int) -> None:
    window = window_of(alice=[5, 6])
    assert window.safe(ALICE, number) == []
    assert len(given_by(window)) == 2


def test_answer_makes_safe_what_is_there_of_its_shipper_and_nothing_that_comes_later() -> None:
    window = window_of(alice=[5, 6], bob=[5, 6])
    assert [chunk.number for chunk in window.safe(ALICE, 2**64 - 1)] == [5, 6]
    assert window.safe(b"nobody".ljust(16), 6) == []
    window.add(ALICE, chunk_of(7, b"x"))
    assert given_by(window) == [(BOB, 5, 5), (BOB, 6, 5), (ALICE, 7, 7)]


def test_window_is_empty_when_all_is_safe() -> None:
    window = window_of(alice=[1, 2], bob=[1])
    sizes = [window.size]
    for shipper, number in ((ALICE, 1), (ALICE, 1), (BOB, 1), (ALICE, 2)):
        window.safe(shipper, number)
        sizes.append(window.size)
    assert sizes == [6, 4, 4, 2, 0]  # a digit and a line end each
    assert window.questions() == []


def test_window_asks_for_each_shipper_that_it_holds_something_of() -> None:
    window = window_of(alice=[5, 6], bob=[7])
    assert sorted(window.questions()) == [
        header(QUESTION, ALICE, 0, 0),
        header(QUESTION, BOB, 0, 0),
    ]
    window.safe(BOB, 7)
    assert window.questions() == [header(QUESTION, ALICE, 0, 0)]


@pytest.mark.parametrize(("count", "size"), [(WINDOW_CHUNKS, 1), (4, 1024 * 1024)])
def test_window_is_full_with_so_many_chunks_or_bytes_until_some_are_safe(
    count: int, size: int
) -> None:
    window = Window()
    for number in range(1, count + 1):
        assert not window.is_full()
        window.add(ALICE, chunk_of(number, b"x" * size))
    assert window.is_full()
    window.safe(ALICE, 1)
    assert not window.is_full()


@pytest.mark.parametrize(
    ("chunk", "kind", "text"),
    [
        (chunk_of(3, b"a"), ONE, b"a"),
        (chunk_of(3, b"a\nb"), ONE, b"a\nb"),
        (chunk_of(3, b""), ONE, b""),
        (chunk_of(3, b"a", b"b"), LINES, b"a\nb"),
        (chunk_of(3, b"", b""), LINES, b"\n"),
        (Finished(b"[1,2]", 2, batch=2), ONE, b"[1,2]"),
        (Finished(b"[1,2]\n[3]", 3, batch=2), LINES, b"[1,2]\n[3]"),
    ],
)
def test_message_is_laid_out_as_written_down(chunk: Finished, kind: int, text: bytes) -> None:
    chunk.number = 3
    window = Window()
    window.add(ALICE, chunk)
    begin = bytes([2, kind, 0, 0]) + ALICE + bytes(7) + b"\x03" + bytes(7) + b"\x03" + bytes(8)
    assert window.message() == [begin, text]


# ---- credit -----------------------------------------------------------------------------------


def test_no_more_is_under_way_than_the_collector_lets() -> None:
    window = window_of(alice=[1], bob=[1])
    for number in (2, 3):
        window.add(ALICE, chunk_of(number, b"x" * 10))
    window.credit = 12
    assert given_by(window) == [(ALICE, 1, 1), (BOB, 1, 1), (ALICE, 2, 1)]
    window.safe(ALICE, 1)
    window.safe(BOB, 1)
    assert given_by(window) == []
    window.safe(ALICE, 2)
    assert given_by(window) == [(ALICE, 3, 3)]


def test_one_chunk_may_be_under_way_however_large_it_is_but_none_without_credit() -> None:
    window = Window()
    window.add(ALICE, chunk_of(1, b"x" * 100))
    window.credit = 0
    assert given_by(window) == []
    window.credit = 1
    assert given_by(window) == [(ALICE, 1, 1)]


def test_credit_is_of_a_connection() -> None:
    window = window_of(alice=[1, 2])
    window.credit = 1
    assert given_by(window) == [(ALICE, 1, 1)]
    window.again()
    assert given_by(window) == [(ALICE, 1, 1), (ALICE, 2, 1)]


# ---- who may be forgotten ---------------------------------------------------------------------


def test_finished_is_who_has_nothing_left_on_the_connection_that_had_all_of_it() -> None:
    window = window_of(alice=[1, 2], bob=[1])
    given_by(window)
    assert window.finished() == {}
    window.safe(ALICE, 2)
    assert {shipper: last.number for shipper, last in window.finished().items()} == {ALICE: 2}
    window.again()
    given_by(window)
    window.safe(BOB, 1)  # the connection before may still bring it to a collector
    assert set(window.finished()) == {ALICE}

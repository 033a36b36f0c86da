"""Answers and offers: what a peer may send, and what is neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ack.helpers import NO_OFFERS
from tests.support.ack import ALICE, GOODBYE, HEADER, LINES, ONE, QUESTION, SAFE, answer, header
from tests.support.collector import strict_json
from tests.support.properties import thorough
from zmqlines.ack import Answer, Offer, OtherVersion


def answer_to(*frames: bytes) -> tuple[bytes, int] | None:
    """What a shipper reads in an answer; None where it is none."""
    try:
        read = Answer.read(list(frames))
    except ValueError:
        return None
    return read.shipper, read.number


def offer_in(*frames: bytes) -> Offer | None:
    """What a collector reads in a message; None where it is no offer."""
    try:
        return Offer.read([b"peer", *frames])
    except ValueError:
        return None


def test_answer_is_read_as_written_down() -> None:
    frame = b"\x02\x04\0\0" + ALICE + bytes(6) + b"\x01\x02" + bytes(7) + b"\x09"
    read = Answer.read([frame])
    assert (read.shipper, read.number, read.credit, read.is_farewell) == (ALICE, 258, 9, False)
    assert read.frame() == frame


def test_farewell_is_read_as_written_down() -> None:
    read = Answer.read([b"\x02\x06\0\0" + ALICE + bytes(16)])
    assert (read.shipper, read.number, read.is_farewell) == (ALICE, 0, True)


def test_another_version_is_told_apart_from_nonsense() -> None:
    """At both ends, and whatever its messages look like."""
    for version in (1, 3):
        frame = header(ONE, ALICE, 1, 1, version=version)[:25]
        with pytest.raises(OtherVersion, match=f"version {version}, and this end version 2"):
            Answer.read([frame])
        with pytest.raises(OtherVersion, match=f"version {version}, and this end version 2"):
            Offer.read([b"peer", frame, b"{}", b"more"])


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [answer(SAFE, ALICE, 1), b""],
        [b"", answer(SAFE, ALICE, 1)],
        [answer(SAFE, ALICE, 1, version=0)],
        [answer(SAFE, ALICE, 1, version=3)],
        [answer(QUESTION, ALICE, 1)],
        [answer(SAFE, ALICE, 1)[:-1]],
        [answer(SAFE, ALICE, 1) + b"\0"],
        [header(SAFE, ALICE, 1, 1)],
    ],
)
def test_what_is_no_answer_is_none(frames: list[bytes]) -> None:
    assert answer_to(*frames) is None


@thorough
@given(st.lists(st.binary(max_size=50), max_size=3))
def test_any_frames_are_an_answer_or_a_value_error(frames: list[bytes]) -> None:
    read = answer_to(*frames)
    assert read is None or frames[0][4:28] == answer(SAFE, *read)[4:28]


def test_offer_is_read_as_written_down() -> None:
    place = bytes(6) + b"\x01\x02" + bytes(7) + b"\x09"
    frame = b"\x02\x01\0\0" + ALICE + place + bytes(8)
    offer = Offer.read([b"peer", frame, b'{"a":1}\n[{"b":2},{"c":3}]'])
    assert (offer.peer, offer.shipper, offer.number, offer.first) == (b"peer", ALICE, 258, 9)
    assert offer.events == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
    assert not offer.is_new


def test_one_message_may_have_line_ends_in_it() -> None:
    text = b'{"a":\n1}'
    one, lines = (offer_in(header(kind, ALICE, 1, 1), text) for kind in (ONE, LINES))
    assert one
    assert lines
    assert one.events == [b'{"a": 1}']
    assert [strict_json(event)["message"] for event in lines.events] == ['{"a":', "1}"]


def test_question_has_no_number_whatever_it_says() -> None:
    offer = offer_in(header(QUESTION, ALICE, 2**64 - 1, 2**64 - 1))
    assert offer == Offer(b"peer", ALICE, 0, 0, [])


def test_goodbye_has_the_last_number_and_is_no_chunk() -> None:
    assert offer_in(header(GOODBYE, ALICE, 7, 0)) == Offer(b"peer", ALICE, 0, 0, [], last=7)


@pytest.mark.parametrize("frames", NO_OFFERS.values(), ids=NO_OFFERS)
def test_what_is_no_offer_is_none(frames: list[bytes]) -> None:
    assert offer_in(*frames) is None


def test_a_million_messages_are_a_chunk_and_more_are_none() -> None:
    """Line ends take no room, but the events that they are do."""
    begin, most = header(LINES, ALICE, 1, 1), 1_000_000
    offer = offer_in(begin, b"{}\n" * (most - 1) + b"{}")
    assert offer
    assert len(offer.events) == most
    assert offer_in(begin, b"\n" * most) is None
    one = offer_in(header(ONE, ALICE, 1, 1), b"\n" * most)
    assert one
    assert len(one.events) == 1


@thorough
@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            HEADER.pack,
            st.integers(0, 3) | st.just(2),
            st.integers(0, 6),
            st.integers(0, 1),
            st.integers(0, 1),
            st.binary(min_size=16, max_size=16),
            st.integers(0, 2**64 - 1) | st.integers(0, 3),
            st.integers(0, 2**64 - 1) | st.integers(0, 3),
            st.integers(0, 3),
        ),
    ),
    st.lists(st.one_of(st.binary(max_size=30), st.text('[]{}",\n1a:').map(str.encode)), max_size=2),
)
def test_any_frames_are_an_offer_or_a_value_error(begin: bytes, texts: list[bytes]) -> None:
    offer = offer_in(begin, *texts)
    if offer:
        version, kind, _, _, shipper, number, first, _ = HEADER.unpack(begin)
        assert version == 2
        assert offer.shipper == shipper
        if kind in (QUESTION, GOODBYE):
            assert (offer.number, offer.last, texts) == (0, number * (kind == GOODBYE), [])
        else:
            assert (offer.number, offer.first, len(texts)) == (number, first, 1)
            assert 0 < first <= number < 2**53
            assert all(isinstance(strict_json(event), dict) for event in offer.events)

"""How a stream of bytes becomes lines. Pure."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import zmqpush
from tests.support.properties import thorough

FRAGMENTS = [
    b"\n",
    b"\r\n",
    b"\r",
    b"a",
    b"abcdefg",
    *(character.encode() for character in "é€😀\u2028\x85\x0b"),
    b"\xff",
    b"\x80",
    b"\xc3",  # the beginning of a character
    b"\xf0\x9f\x98",
    b"\xed\xa0\x80",  # a surrogate, which UTF-8 has not
]
streams = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map(b"".join), st.binary(max_size=40)
)
sizes = st.integers(4, 12)
texts = st.text("aé€😀", max_size=40)


def feed_all(splitter: zmqpush.LineSplitter, reads: list[bytes]) -> list[bytes]:
    """The lines that come out when `reads` go in and the stream ends."""
    out = b"".join([*map(splitter.feed, reads), splitter.end()])
    assert out.endswith(b"\n") or not out
    return out.split(b"\n")[:-1]


def lines_of(stream: bytes, max_line: int = 0) -> list[bytes]:
    return feed_all(zmqpush.LineSplitter(max_line), [stream])


def reference_lines(stream: bytes) -> list[bytes]:
    """The slow way: the ends off, one line at a time."""
    *whole, last = stream.split(b"\n")
    lines = [line[:-1] if line.endswith(b"\r") else line for line in whole]
    return lines + [last] * bool(last)


def reference_pieces(text: str, size: int) -> list[bytes]:
    """As many characters in each piece as go in, one at a time."""
    cut = [b""]
    for character in text:
        encoded = character.encode()
        if len(cut[-1]) + len(encoded) > size:
            cut.append(b"")
        cut[-1] += encoded
    return cut


# ---- pieces -----------------------------------------------------------------------------------


@thorough
@given(texts, sizes)
def test_pieces_of_text_hold_as_many_whole_characters_as_go_in(text: str, size: int) -> None:
    assert list(zmqpush.pieces(text.encode(), size)) == reference_pieces(text, size)


@thorough
@given(streams, sizes)
@example(b"abcd" + b"\x80" * 9, 4)
@example(b"\x80" * 8, 4)
def test_pieces_of_any_bytes_are_the_line_and_never_too_long_nor_empty(
    line: bytes, size: int
) -> None:
    cut = list(zmqpush.pieces(line, size))
    assert b"".join(cut) == line
    assert max(map(len, cut)) <= size
    assert all(cut) or cut == [b""]
    assert all(len(piece) > size - zmqpush.LONGEST_CHARACTER for piece in cut[:-1])


@thorough
@given(streams, sizes)
def test_pieces_of_any_bytes_read_as_the_line_does(line: bytes, size: int) -> None:
    """A character beside bytes that are not UTF-8 is not cut either."""
    decoded = [piece.decode(errors="backslashreplace") for piece in zmqpush.pieces(line, size)]
    assert "".join(decoded) == line.decode(errors="backslashreplace")


def test_a_line_of_just_the_size_is_one_piece() -> None:
    assert list(zmqpush.pieces(b"abcd", 4)) == [b"abcd"]
    assert list(zmqpush.pieces(b"abcde", 4)) == [b"abcd", b"e"]
    assert list(zmqpush.pieces(b"abcdefgh", 4)) == [b"abcd", b"efgh"]


# ---- LineSplitter -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "lines"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"\n\n", [b"", b""]),
        (b"\r\n", [b""]),
        (b"a\n", [b"a"]),
        (b"a", [b"a"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b" a \t\n", [b" a \t"]),
        (b"a\rb\n", [b"a\rb"]),
        (b"a\r\r\n", [b"a\r"]),
        (b"a\n\rb\n", [b"a", b"\rb"]),
        (b"a\r", [b"a\r"]),
        (b"\r", [b"\r"]),
        ("a\x0bb\x0cc\x85d\u2028e\n".encode(), ["a\x0bb\x0cc\x85d\u2028e".encode()]),
        (b"a\0b\n", [b"a\0b"]),
    ],
)
def test_a_line_ends_with_lf_or_cr_lf_and_nothing_else(stream: bytes, lines: list[bytes]) -> None:
    assert lines_of(stream) == lines


@thorough
@given(streams)
def test_lines_are_those_of_the_slow_way(stream: bytes) -> None:
    assert lines_of(stream) == reference_lines(stream)


@thorough
@given(st.data(), streams, st.one_of(st.just(0), sizes))
def test_where_the_reads_fell_makes_no_difference(
    data: st.DataObject, stream: bytes, max_line: int
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    starts, ends = [0, *cuts], [*cuts, len(stream)]
    reads = [stream[start:end] for start, end in zip(starts, ends)]
    splitter = zmqpush.LineSplitter(max_line)
    whole = zmqpush.LineSplitter(max_line)
    assert feed_all(splitter, reads) == feed_all(whole, [stream])


@thorough
@given(streams, st.one_of(st.just(0), sizes))
def test_nor_do_reads_of_a_byte(stream: bytes, max_line: int) -> None:
    reads = [stream[at : at + 1] for at in range(len(stream))]
    assert feed_all(zmqpush.LineSplitter(max_line), reads) == lines_of(stream, max_line)


@thorough
@given(streams, sizes)
@example(b"abcd\r\n", 4)
@example(b"abcd\r", 4)
@example(b"abc\r\rx\n", 4)
@example(b"abcdefgh\r\n\r\n", 4)
def test_a_long_line_is_cut_in_pieces_and_a_short_one_is_not(stream: bytes, max_line: int) -> None:
    lines = reference_lines(stream)
    expected = [piece for line in lines for piece in zmqpush.pieces(line, max_line)]
    splitter = zmqpush.LineSplitter(max_line)
    assert feed_all(splitter, [stream]) == expected


@thorough
@given(st.lists(texts, min_size=1, max_size=4), sizes)
def test_a_character_is_never_cut(lines: list[str], max_line: int) -> None:
    stream = "".join(line + "\n" for line in lines).encode()
    expected = [piece for line in lines for piece in reference_pieces(line, max_line)]
    assert lines_of(stream, max_line) == expected


def test_a_line_is_given_out_as_soon_as_its_end_is_there() -> None:
    splitter = zmqpush.LineSplitter(0)
    assert splitter.feed(b"a") == b""
    assert splitter.feed(b"\nb\r") == b"a\n"
    assert splitter.feed(b"\n") == b"b\n"
    assert splitter.feed(b"c\nd") == b"c\n"
    assert splitter.end() == b"d\n"
    assert splitter.end() == b""


def test_a_line_that_has_no_end_is_given_out_as_it_comes() -> None:
    splitter = zmqpush.LineSplitter(4)
    assert splitter.feed(b"abcd") == b""
    assert splitter.feed(b"efghi") == b"abcd\nefgh\n"
    assert splitter.feed(b"jkl\r") == b""
    assert splitter.feed(b"m") == b"ijkl\n"
    assert splitter.feed(b"\n") == b"\rm\n"


def test_without_a_limit_no_line_is_cut() -> None:
    line = b"x" * 5_000_000
    splitter = zmqpush.LineSplitter(0)
    assert splitter.feed(line) == b""
    assert splitter.feed(line + b"\n") == line + line + b"\n"
    assert not splitter.cut


def test_a_byte_order_mark_before_the_first_line_is_not_part_of_it() -> None:
    mark = b"\xef\xbb\xbf"
    for reads in ([mark + b"a\nb\n"], [mark[:1], mark[1:], b"a\n", b"b"], [mark + b"a", b"\nb"]):
        assert feed_all(zmqpush.LineSplitter(0), reads) == [b"a", b"b"]
    assert lines_of(mark + b"a") == [b"a"]
    assert lines_of(mark) == []
    assert lines_of(mark + b"a\n" + mark + b"b\n") == [b"a", mark + b"b"]
    assert lines_of(mark + b"abcdefgh", max_line=4) == [b"abcd", b"efgh"]

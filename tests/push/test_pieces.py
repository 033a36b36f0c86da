"""The pieces of a line that is longer than --max-line can be joined again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zmqpush
from tests.support.aliases import Ship
from tests.support.collector import Collector, strict_json
from tests.support.programs import TOP
from tests.support.properties import thorough
from tests.support.pulling import Pull
from zmqlines.pieces import Marker, Piece

LINE = "".join(f"{number} é€😀 " for number in range(40))  # 14 bytes or so each
INPUT = f"short\n{LINE}\nafter\n{LINE}{LINE}".encode()
LINES = ["short", LINE, "after", LINE + LINE]


def joined(events: Iterable[dict[str, Any]]) -> list[str]:
    """The lines, as one joins them who has read docs/options.md."""
    lines, pieces = [], list[dict[str, Any]]()
    for event in events:
        if "piece" not in event:
            lines.append(event["message"])
            continue
        pieces.append(event)
        if event["piece"]["last"]:
            sizes = [each["piece"]["size"] for each in pieces]
            for number, each in enumerate(pieces):
                assert each["piece"]["number"] == number + 1
                assert each["piece"]["offset"] == sum(sizes[:number])
                assert each["piece"]["line"] == pieces[0]["piece"]["line"]
            lines.append("".join(each["message"] for each in pieces))
            pieces = []
    assert not pieces
    return lines


@thorough
@given(st.lists(st.binary(max_size=60), max_size=5), st.integers(4, 20), st.data())
def test_wherever_the_reads_fell_the_pieces_join_to_the_line(
    lines: list[bytes], max_line: int, data: st.DataObject
) -> None:
    lines = [line.replace(b"\n", b"").replace(b"\r", b"") for line in lines]
    stream = b"\xef\xbb\xbf" * data.draw(st.booleans()) + b"".join(line + b"\n" for line in lines)
    ends = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    splitter, marker = zmqpush.LineSplitter(max_line), Marker()
    found: list[tuple[bytes, Piece | None]] = []
    for start, end in zip([0, *ends], [*ends, len(stream)]):
        found += marker.marked(splitter.feed(stream[start:end]), splitter.cut)
    found += marker.marked(splitter.end(), splitter.cut)
    if lines and not lines[0].startswith(b"\xef\xbb\xbf"):
        assert list(rejoined(found)) == lines


def rejoined(found: list[tuple[bytes, Piece | None]]) -> Iterable[bytes]:
    so_far, before = b"", 0
    for text, piece in found:
        if not piece:
            yield from text.split(b"\n")[:-1]
            continue
        assert text.endswith(b"\n")
        assert len(text) - 1 == piece.size
        assert len(so_far) == piece.offset
        assert piece.number == before + 1
        so_far, before = so_far + text[:-1], piece.number
        if piece.last:
            assert piece.number > 1
            yield so_far
            so_far, before = b"", 0
    assert not so_far


@pytest.mark.parametrize("options", [[], ["--batch", "3"], ["--timestamp", "-f", "a=b"]])
@pytest.mark.parametrize("spool", [False, True], ids=["", "spool"])
def test_pieces_say_which_they_are(
    options: list[str], spool: bool, collector: Collector, ship: Ship, tmp_path: Path
) -> None:
    spooled = ["--spool", str(tmp_path / "spool")] * spool
    shipper = ship("-c", collector.endpoint, "--max-line", "50", *options, *spooled)
    result = shipper.finish(INPUT)
    events: list[dict[str, Any]] = []
    while len(events) < result.processed:
        some = strict_json(collector.receive(1)[0])
        events += some if isinstance(some, list) else [some]
    assert joined(events) == LINES
    assert [event["piece"]["line"] for event in events if "piece" in event][-1] == 2


def test_with_ack_they_do_as_well(pull: Pull, ship: Ship) -> None:
    puller = pull("--ack")
    result = ship("--ack", "-c", puller.endpoint, "--max-line", "50").finish(INPUT)
    assert joined(map(strict_json, puller.read(result.processed))) == LINES


def test_json_that_is_too_long_comes_in_pieces_of_text(collector: Collector, ship: Ship) -> None:
    event = json.dumps({"message": LINE, "n": 1})
    data = f'{{"n":1}}\n{event}\n'.encode()
    shipper = ship("-c", collector.endpoint, "--format", "json", "--max-line", "50")
    result = shipper.finish(data)
    first, *rest = collector.events(result.processed)
    assert first["n"] == 1
    assert "piece" not in first
    assert json.loads(joined(rest)[0])["message"] == LINE


def test_raw_pieces_have_no_place_for_it(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint, "--format", "raw", "--max-line", "4")
    assert shipper.finish(b"abcdef\n").processed == 2
    assert collector.receive(2) == [b"abcd", b"ef"]


def test_alone_it_cuts_as_well_but_does_not_say_which_piece_is_which(
    collector: Collector, ship: Ship, tmp_path: Path
) -> None:
    copy = shutil.copy(TOP / "zmqpush.py", tmp_path)
    shipper = ship("-c", collector.endpoint, "--max-line", "4", program=str(copy))
    assert shipper.finish(b"abcdef\n").processed == 2
    assert [set(event) for event in collector.events(2)] == [{"message", "type", "@pid"}] * 2


def test_a_field_of_that_name_gives_way() -> None:
    options = zmqpush.parse_options(zmqpush.build_parser(""), ["-f", "piece=mine"])
    form = Piece(1, 2, 3, 4, True).form(zmqpush.make_format(options, 1))
    (event,) = form.messages(b"x\n", 0)
    assert json.loads(event)["piece"] == {
        "line": 1,
        "number": 2,
        "offset": 3,
        "size": 4,
        "last": True,
    }
    assert event.count(b'"piece"') == 1

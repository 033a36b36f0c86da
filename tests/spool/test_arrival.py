"""With a spool, lines arrive as they do without one: in order, once, and each as soon as it can."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.spool.helpers import (
    ANY_PORT,
    assert_delivered,
    drain,
    feed,
    leave_behind,
    names,
    numbered_objects,
    size_of,
    start_draining,
    start_raw,
    stderr_of,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector, strict_json
from tests.support.lines import lines, text, written_in_background

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("form", ["logstash", "json"])
@pytest.mark.parametrize("stamp", [[], ["--timestamp"]], ids=["", "timestamp"])
def test_events_arrive_as_without_a_spool_in_order_and_once(
    batch: int, form: str, stamp: list[str], directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    arguments = ["app", "--format", form, "--batch", str(batch), "-f", 'site="ä"', *stamp]
    shipper = ship("-c", eager_collector.endpoint, "--spool", str(directory), *arguments)
    objects = numbered_objects(5000)
    with written_in_background(shipper, text(objects)):
        received: list[dict[str, Any]] = []
        while len(received) < len(objects):
            (message,) = eager_collector.receive(1)
            received += strict_json(message if batch > 1 else b"[" + message + b"]")
    assert_delivered(shipper.finish(), len(objects))
    assert eager_collector.is_silent()
    assert names(directory) == []
    common = {"type": "app", "@pid": shipper.pid, "site": '"ä"'}
    for n, (event, line) in enumerate(zip(received, objects)):
        if stamp:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("@timestamp"))
        spliced = form == "json" and n % 3
        own = {"n": n} if spliced else {"message": line.decode()}
        assert event == {**own, **common}


def test_raw_lines_arrive_in_order_and_once_the_empty_ones_too(
    directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    choose = random.Random(3).choice
    expected = [choose([b"", b"", b"%d" % n, b"\xff\x00 %d " % n]) for n in range(20_000)]
    shipper = start_raw(ship, eager_collector.endpoint, directory)
    with written_in_background(shipper, b"\n\n" + text(expected) + b"\n"):
        assert eager_collector.receive(2 + len(expected) + 1) == [b"", b"", *expected, b""]
    assert_delivered(shipper.finish(), len(expected) + 3)
    assert names(directory) == []


@pytest.mark.long
@pytest.mark.parametrize("data", [b"\n", b"\n\n", b"\n\n\n", b"a\n\n", b"\na\n"])
def test_raw_empty_lines_are_kept_on_disk(
    data: bytes, directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    leave_behind(ship, endpoint, directory, data, "--format", "raw")
    result = start_draining(ship, eager_collector.endpoint, directory).finish()
    expected = data[:-1].split(b"\n")
    assert (result.status, result.processed, stderr_of(result)) == (0, len(expected), "")
    assert eager_collector.receive(len(expected)) == expected
    assert eager_collector.is_silent()


def test_each_line_arrives_without_waiting_for_the_next(
    directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    shipper = start_raw(ship, eager_collector.endpoint, directory)
    for line in lines(100):
        shipper.write(line + b"\n")
        assert eager_collector.receive(1) == [line]
    assert shipper.finish().processed == 100


@pytest.mark.long
def test_file_as_input_is_sent_in_order(
    tmp_path: Path, directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    expected = lines(100_000, size=99)
    path = tmp_path / "log"
    path.write_bytes(text(expected))
    options = ("-c", eager_collector.endpoint, "--spool", str(directory), "--format", "raw")
    with path.open("rb") as log:
        assert_delivered(ship(*options, stdin=log).finish(), len(expected))
    assert eager_collector.receive(len(expected)) == expected
    assert names(directory) == []


@pytest.mark.long
def test_line_longer_than_what_is_loaded_at_once_is_kept_and_arrives(
    directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    line = b"x" * 5_000_000
    leave_behind(ship, endpoint, directory, line + b"\nend\n", "--max-line", "0")
    result = start_draining(ship, eager_collector.endpoint, directory).finish()
    assert (result.status, stderr_of(result)) == (0, "")
    assert eager_collector.texts(2) == [line.decode(), "end"]


@pytest.mark.long
def test_lines_wait_on_disk_and_arrive_in_order_when_the_collector_comes(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    expected = lines(60_000, size=99)
    shipper = feed(start_raw(ship, endpoint, directory), text(expected[:50_000]))
    assert size_of(directory) > 5_000_000
    with written_in_background(shipper, text(expected[50_000:])):
        assert collect(endpoint).receive(60_000) == expected
    assert_delivered(shipper.finish(), 60_000)
    assert names(directory) == []


@pytest.mark.long
def test_several_collectors_share_what_waits_and_everything_arrives(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    expected = lines(20_000)
    leave_behind(ship, endpoint, directory, text(expected[:10_000]))
    collectors = [collect(ANY_PORT), collect(ANY_PORT)]
    endpoints = [word for each in collectors for word in ("-c", each.endpoint)]
    shipper = ship(*endpoints, "--spool", str(directory))
    shipper.write(text(expected[10_000:]))
    assert sorted(drain(collectors, 20_000)) == expected
    assert_delivered(shipper.finish(), 20_000)
    assert names(directory) == []

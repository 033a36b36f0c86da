"""What the tests of acknowledged delivery share."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from pathlib import Path

from tests.support.ack import (
    ALICE,
    GOODBYE,
    LINES,
    ONE,
    QUESTION,
    SAFE,
    Message,
    OurCollector,
    answer,
    header,
)
from tests.support.programs import TOP, Result, Shipper
from zmqlines.finished import Finished

PATIENCE_S = 0.3  # of the hasty program


NO_OFFERS = {
    "nothing": [],
    "an empty frame": [b""],
    "no text": [header(LINES, ALICE, 1, 1)],
    "two texts": [header(ONE, ALICE, 1, 1), b"{}", b"{}"],
    "a question with a text": [header(QUESTION, ALICE, 0, 0), b""],
    "version 0": [header(ONE, ALICE, 1, 1, version=0), b"{}"],
    "version 3": [header(ONE, ALICE, 1, 1, version=3), b"{}"],
    "kind 0": [header(0, ALICE, 1, 1), b"{}"],
    "coding 1": [header(ONE, ALICE, 1, 1, coding=1), b"{}"],
    "a goodbye without a number": [header(GOODBYE, ALICE, 0, 0)],
    "a goodbye with a text": [header(GOODBYE, ALICE, 1, 0), b""],
    "kind 4": [header(SAFE, ALICE, 1, 1), b"{}"],
    "number 0": [header(ONE, ALICE, 0, 0), b"{}"],
    "first 0": [header(ONE, ALICE, 1, 0), b"{}"],
    "first over number": [header(ONE, ALICE, 1, 2), b"{}"],
    "a number from which Lua cannot count on": [header(ONE, ALICE, 2**53, 1), b"{}"],
    "the greatest number": [header(ONE, ALICE, 2**64 - 1, 2**64 - 1), b"{}"],
    "a short header": [header(ONE, ALICE, 1, 1)[:-1], b"{}"],
    "a long header": [header(ONE, ALICE, 1, 1) + b"\0", b"{}"],
    "an empty frame before": [b"", header(ONE, ALICE, 1, 1), b"{}"],
    "an answer": [answer(SAFE, ALICE, 1)],
}


def copy_with(folder: Path, **constants: float) -> str:
    """A zmqpush.py, with all its parts, of which only these constants are different."""
    shutil.copy2(TOP / "zmqpush.py", folder)
    shutil.copytree(TOP / "zmqlines", folder / "zmqlines")
    sources = [folder / "zmqpush.py", *folder.glob("zmqlines/*.py")]
    for name, value in constants.items():
        counts = []
        for path in sources:
            source, count = re.subn(
                rf"^{name} = [\d.]+", f"{name} = {value}", path.read_text("utf-8"), flags=re.M
            )
            path.write_text(source, encoding="utf-8")
            counts.append(count)
        assert sum(counts) == 1, name
    return str(folder / "zmqpush.py")


def chunk_of(number: int, *messages: bytes, batch: int = 1) -> Finished:
    chunk = Finished(b"\n".join(messages), len(messages), batch)
    chunk.number = number
    return chunk


def texts(count: int, start: int = 0, size: int = 10) -> list[str]:
    return [f"{number:0{size}}" for number in range(start, start + count)]


def as_input(texts: list[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def trouble(result: Result) -> str:
    """What a shipper said, but that it waits for an answer: here that may be for a busy machine."""
    return re.sub(r"zmqpush\.py: the input has ended; .*\n", "", result.stderr)


class Feeder(threading.Thread):
    """Writes into a shipper's standard input as fast as it is read, and ends it if told so."""

    def __init__(self, shipper: Shipper, data: bytes, ends: bool = True) -> None:
        super().__init__(daemon=True)
        self._shipper = shipper
        self._data = data
        self._ends = ends
        self.start()

    def run(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._shipper.write(self._data)
            if self._ends:
                self._shipper.end_input()


def send_chunks(shipper: Shipper, collector: OurCollector, *texts: bytes) -> list[Message]:
    """Write `texts` into a shipper, each as a chunk of its own; returns what came."""
    chunks = []
    for text in texts:
        shipper.write(text)
        chunks.append(collector.receive_chunk())
    return chunks


def check_all_safe(shipper: Shipper, count: int) -> None:
    """Wait for its end: so many messages were acknowledged, and there was no trouble."""
    result = shipper.finish()
    assert (result.status, result.processed, trouble(result)) == (0, count, "")

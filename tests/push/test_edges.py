"""Edge-triggered reading misses nothing: no hang-up, no line, whatever the pace of the writer."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import zmqpush
from tests.push.inputs import in_lines, numbers
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.proc import wait_until_asleep
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version


@pytest.fixture
def own_stdin() -> Iterator[None]:
    """The test may put what it likes at descriptor 0."""
    kept = os.dup(0)
    yield
    os.dup2(kept, 0)
    os.close(kept)


async def read_to_the_end() -> bytes:
    """All of descriptor 0."""
    stdin = zmqpush.Stdin(on_ready=lambda: None)
    data = b""
    try:
        while piece := await stdin.read():
            data += piece
    finally:
        stdin.close()
    return data


@pytest.mark.usefixtures("own_stdin")
def test_writers_that_close_at_once_race_with_the_reader_and_none_is_missed(fifo: Path) -> None:
    count = 4000

    async def read_all() -> bytes:
        data = b""
        while data.count(b"\n") < count:  # two writers in succession may look like one
            # The last writer may have gone by now: to open it as usual would wait for another.
            reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
            os.set_blocking(reader, True)
            os.dup2(reader, 0)
            os.close(reader)
            data += await asyncio.wait_for(read_to_the_end(), DEADLINE_S)
        return data

    loop = f"for i in $(seq {count}); do echo $i >{shlex.quote(str(fifo))}; done"
    keeper = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # of what is written between two readers
    writer = subprocess.Popen(["sh", "-c", loop])
    try:
        assert asyncio.run(read_all()) == in_lines(numbers(count))
    finally:
        os.close(keeper)
        writer.kill()
        writer.wait()


@pytest.mark.usefixtures("own_stdin")
@pytest.mark.parametrize("hang_up", ["before", "with", "after"])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_was_written_before_a_hang_up_is_read_whenever_that_comes(
    kind: str, hang_up: str
) -> None:
    """The hang-up comes before the reader is there, with the line, or after the line was seen."""

    async def one(data: bytes) -> None:
        if kind == "pipe":
            reader, writer = os.pipe()
        else:
            reader, writer = (end.detach() for end in socket.socketpair())
        os.dup2(reader, 0)
        os.close(reader)
        if hang_up == "before":
            os.write(writer, data)
            os.close(writer)
        reading = asyncio.ensure_future(read_to_the_end())
        await asyncio.sleep(0)
        if hang_up != "before":
            os.write(writer, data)
        if hang_up == "after":
            await asyncio.sleep(0.001)
        if hang_up != "before":
            os.close(writer)
        assert await asyncio.wait_for(reading, DEADLINE_S) == data

    async def many() -> None:
        for turn in range(300):
            await one(in_lines(numbers(1 + turn % 50)))

    asyncio.run(many())


def test_odd_writes_with_odd_pauses_all_arrive(collector: Collector, ship: Ship) -> None:
    """Edge-triggered reading loses no wake-up, whatever the pace of the writer."""
    chance = random.Random(2120)
    texts = [f"{number:06}" + "x" * chance.choice((0, 1, 50, 3000)) for number in range(20_000)]
    data = in_lines(texts)
    shipper = ship("-c", collector.endpoint, "--format", "raw")
    assert shipper.process.stdin
    descriptor = shipper.process.stdin.fileno()
    at = 0
    while at < len(data):
        size = chance.choice((1, 7, 100, 4095, 4096, 4097, 65_536, 100_000, 300_000))
        at += os.write(descriptor, data[at : at + size])
        time.sleep(chance.choice((0, 0, 0, 0.0001, 0.001, 0.005)))
    last = b"the last\n"  # waits alone for an edge
    assert [text.decode() for text in collector.receive(len(texts))] == texts
    wait_until_asleep(shipper.pid)
    os.write(descriptor, last)
    assert collector.receive(1) == [last.strip()]
    assert shipper.finish().processed == len(texts) + 1


def test_line_by_line_in_bursts_all_arrive(collector: Collector, ship: Ship) -> None:
    """Bursts are gathered, and the first line after a burst still wakes us."""
    chance = random.Random(2120)
    shipper = ship("-c", collector.endpoint, "--format", "raw")
    assert shipper.process.stdin
    descriptor = shipper.process.stdin.fileno()
    count = itertools.count(1)
    for _ in range(30):
        texts = [str(next(count)) for _ in range(chance.choice((1, 2, 500, 2000)))]
        for text in texts:
            os.write(descriptor, text.encode() + b"\n")
        assert [text.decode() for text in collector.receive(len(texts))] == texts
    assert shipper.finish().processed == next(count) - 1

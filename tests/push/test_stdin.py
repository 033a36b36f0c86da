"""How Stdin reads a pipe: when it rests, when it gathers, and what it does to the pipe.

In this process, with a backlog that only takes notes.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

import zmqpush
from zmqlines.gathering import Gathering


@pytest.fixture
def own_pipe() -> Iterator[int]:
    """The writing end of a pipe at descriptor 0."""
    kept = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    yield writing
    os.dup2(kept, 0)
    os.close(kept)
    if writing in map(int, os.listdir("/proc/self/fd")):
        os.close(writing)


class Taker:
    """A backlog that only notes what is put, and when; a put takes until `is_free`."""

    def __init__(self, rest_s: float = 0.0) -> None:
        self.puts: list[tuple[float, bytes]] = []
        self.is_free = asyncio.Event()
        self.is_free.set()
        self._rest_s = rest_s
        self.put_once = asyncio.Event()

    async def put(self, lines: bytes, piece: Any = None) -> None:
        assert not piece
        if lines:
            self.puts.append((time.monotonic(), lines))
            self.put_once.set()
        await self.is_free.wait()

    def cut(self, lines: bytes) -> list[bytes]:
        return [lines]

    async def room(self) -> None:
        return

    def rest_s(self) -> float:
        return self._rest_s

    async def end(self) -> None:
        return

    def announce(self) -> None:
        return


def gaps(taker: Taker) -> list[float]:
    return [later - sooner for (sooner, _), (later, _) in zip(taker.puts, taker.puts[1:])]


async def queue(taker: Taker, gather_s: float) -> tuple[zmqpush.Stdin, asyncio.Task[bool]]:
    """Descriptor 0, read into `taker`."""
    stdin = zmqpush.Stdin(taker.announce, gather_s)
    backlog = cast(zmqpush.Backlog, taker)
    queuer = zmqpush.stdin_queuer(stdin, zmqpush.LineSplitter(0), backlog)
    return stdin, asyncio.create_task(queuer)


def test_reads_are_a_rest_apart_though_more_came_during_a_put(own_pipe: int) -> None:
    """As with a spool: what comes while the last lines are synced does not end the rest."""
    rest_s = 0.05

    async def scenario() -> Taker:
        taker = Taker(rest_s)
        _, queuing = await queue(taker, gather_s=0.0)
        for number in range(10):
            taker.is_free.clear()
            taker.put_once.clear()
            os.write(own_pipe, b"%d\n" % number)
            await taker.put_once.wait()
            os.write(own_pipe, b"more\n")  # the edge comes during the put
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            taker.is_free.set()
        os.close(own_pipe)
        await queuing
        return taker

    taker = asyncio.run(scenario())
    assert b"".join(lines for _, lines in taker.puts).count(b"more\n") == 10
    assert min(gaps(taker)) >= rest_s * 0.9


def test_few_large_lines_with_a_rest_are_not_gathered(own_pipe: int) -> None:
    async def scenario() -> zmqpush.Stdin:
        taker = Taker(rest_s=0.001)
        stdin, queuing = await queue(taker, gather_s=0.05)  # 40 a second are often
        for number in range(3 * Gathering.WAKES):
            taker.put_once.clear()
            os.write(own_pipe, b"%20000d\n" % number)
            await taker.put_once.wait()
            await asyncio.sleep(0.033)  # 30 a second are not
        assert not stdin._gathering.is_on
        os.close(own_pipe)
        await queuing
        return stdin

    asyncio.run(scenario())


async def gather(own_pipe: int) -> None:
    """Write line by line until lines gather."""
    taker = Taker()
    stdin, queuing = await queue(taker, gather_s=0.2)
    while not (stdin._gathering and stdin._gathering.is_on):
        taker.put_once.clear()
        os.write(own_pipe, b"x\n")
        await taker.put_once.wait()
        await asyncio.sleep(0.001)  # let it wait for the next one
        assert len(taker.puts) < 1000, "they do not gather"
    assert stdin._gathering.room == size_of(own_pipe)
    stdin.finish(asyncio.get_running_loop().time())
    await queuing


def size_of(pipe: int) -> int:
    return fcntl.fcntl(pipe, zmqpush.F_GETPIPE_SZ)


def allow(pipe: int, size: int) -> None:
    """Let `pipe` hold so much; skips the test where that is not allowed."""
    try:
        fcntl.fcntl(pipe, zmqpush.F_SETPIPE_SZ, size)
    except OSError as error:
        pytest.skip(f"a pipe of {size} bytes: {error}")


def test_a_pipe_is_widened_when_lines_gather(own_pipe: int) -> None:
    allow(own_pipe, zmqpush.PIPE_SIZE)
    allow(own_pipe, 65536)
    asyncio.run(gather(own_pipe))
    assert size_of(own_pipe) == zmqpush.PIPE_SIZE


def test_a_pipe_that_holds_more_is_not_narrowed(
    own_pipe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if an administrator had allowed more than Linux does as it comes."""
    monkeypatch.setattr(zmqpush, "PIPE_SIZE", 65536)
    allow(own_pipe, 262144)
    asyncio.run(gather(own_pipe))
    assert size_of(own_pipe) == 262144

"""The classic algorithm for this job: asyncio, a line at a time. A peer of the bench.

    classic.py ENDPOINT

How an asyncio program of 2014 went about it, written down for today's Python and aiozmq:

    stdin_queuer    polls stdin for 50 ms; while there is input it queues a line and yields,
                    so that the pusher can send that very line; without input it yields
    zmq_pusher      writes one message a queued line; above the low watermark it drains the
                    stream and sleeps 100 ms before it takes another

It delivers everything, in order. It stands here for its speed, which is what one await and
one write a line cost.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
from json.encoder import encode_basestring
from typing import Optional

import aiozmq
import zmq

POLL_S = 0.05
DRAIN_SLEEP_S = 0.1

#: What travels in the queue: an event, or None after the last one.
LineQueue = asyncio.Queue[Optional[bytes]]


def event_of(line: bytes) -> bytes:
    """The JSON event of one line. The C encoder of the json module does the escaping."""
    text = encode_basestring(line.decode().rstrip("\r\n"))
    return b'{"message":%s,"type":"syslog","@pid":%d}' % (text.encode(), os.getpid())


async def stdin_queuer(queue: LineQueue) -> None:
    """Queue every line of stdin, then None."""
    stdin = sys.stdin.buffer
    os.set_blocking(stdin.fileno(), False)
    poller = select.epoll()
    poller.register(stdin, select.EPOLLIN | select.EPOLLET)
    unfinished = b""
    ended = False
    while not ended:
        ready = poller.poll(POLL_S)
        ended = any(event & select.EPOLLHUP for _, event in ready)
        if not ready:
            await asyncio.sleep(0)
            continue
        # Where the pipe is empty, the last "line" is what there is of one so far.
        for piece in stdin:
            unfinished += piece
            if unfinished.endswith(b"\n"):
                await queue.put(event_of(unfinished))
                unfinished = b""
                await asyncio.sleep(0)
    if unfinished:
        await queue.put(event_of(unfinished))
    await queue.put(None)


async def zmq_pusher(queue: LineQueue, endpoint: str) -> None:
    """Send what is queued until None comes, then wait until the stream has sent it."""
    stream = await aiozmq.create_zmq_stream(zmq.PUSH, connect=endpoint)
    low, _ = stream.transport.get_write_buffer_limits()
    while True:
        while stream.transport.get_write_buffer_size() > low:
            await stream.drain()
            await asyncio.sleep(DRAIN_SLEEP_S)
        event = await queue.get()
        if event is None:
            break
        stream.write([event])
    while stream.transport.get_write_buffer_size() > 0:
        await asyncio.sleep(DRAIN_SLEEP_S)
    stream.close()


async def main(endpoint: str) -> None:
    """Run both ends of the queue until stdin has ended and all is with libzmq."""
    queue: LineQueue = asyncio.Queue()
    await asyncio.gather(stdin_queuer(queue), zmq_pusher(queue, endpoint))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
    zmq.Context.instance().term()  # returns when libzmq has delivered

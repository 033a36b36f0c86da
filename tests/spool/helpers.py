"""What the tests of the spool look at, and how shippers leave something behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmqpush
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.net import unread
from tests.support.programs import Result, Shipper, wait_until_read, without_state
from tests.support.spooled import rows
from tests.support.waiting import DEADLINE_S, wait_until
from zmqlines.finished import Finished
from zmqlines.spool import Spool
from zmqlines.spool_file import SpoolFile

# A loopback address of this process: no shipper of anybody else is looking for a collector there.
ADDRESS = f"127.251.{os.getpid() // 250 % 250}.{1 + os.getpid() % 250}"
ANY_PORT = f"tcp://{ADDRESS}:*"


# ---- what is on disk --------------------------------------------------------------------------


def messages_in(directory: Path) -> list[bytes]:
    """What they have left behind, where a message is an event."""
    return [message for row in rows(directory) for message in row.messages()]


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def size_of(directory: Path) -> int:
    """Bytes of disk that the files in `directory` take."""
    size = 0
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            size += os.stat(directory / name).st_blocks * 512
    return size


# ---- shippers ---------------------------------------------------------------------------------


def start_raw(ship: Ship, endpoint: str, directory: Path) -> Shipper:
    """Start a process whose messages are the lines themselves."""
    return ship("-c", endpoint, "--spool", str(directory), "--format", "raw")


def feed(shipper: Shipper, data: bytes) -> Shipper:
    """Write `data` and wait until all of it is taken: it is sent, or waits on disk."""
    shipper.write(data)
    wait_until_read(shipper)
    return shipper


def leave_behind(
    ship: Ship, endpoint: str, directory: Path, data: bytes, *arguments: str, **settings: Any
) -> Shipper:
    """Let a process journal `data` and end, with nobody at `endpoint`."""
    options = ("-c", endpoint, "--spool", str(directory), "--linger", "0")
    shipper = ship(*options, *arguments, **settings)
    result = shipper.finish(data)
    assert (result.status, result.processed) == (0, 0)
    return shipper


def leave_behind_killed(
    ship: Ship, endpoint: str, directory: Path, data: bytes, *arguments: str, **settings: Any
) -> Shipper:
    """Let a process journal `data`, with nobody at `endpoint`, and kill it."""
    shipper = ship("-c", endpoint, "--spool", str(directory), *arguments, **settings)
    feed(shipper, data).stop()
    return shipper


def start_draining(ship: Ship, endpoint: str, directory: Path, **settings: Any) -> Shipper:
    """Start a process that has nothing to send but what was left behind."""
    options = ("-c", endpoint, "--spool", str(directory), "--format", "raw")
    return ship(*options, stdin=subprocess.DEVNULL, **settings)


def stderr_of(result: Result) -> str:
    """Its stderr, but for the notice that it still delivers a second after the end of input."""
    notice = r"zmqpush\.py: the input has ended; (up to )?\d+ messages .+\n"
    return re.sub(notice, "", without_state(result.stderr))


def assert_delivered(result: Result, count: int) -> None:
    """It ended well, delivered so many messages, and had nothing to say."""
    outcome = (result.status, result.processed, stderr_of(result))
    assert outcome == (0, count, ""), outcome


def kept_in(directory: Path, waiting: int, uncertain: int = 0) -> str:
    """What the last line on stderr says where a process leaves messages behind."""
    return (
        f"zmqpush.py: {waiting} messages wait in {directory}, and {uncertain} that were "
        "handed over and may have arrived: the next start sends them\n"
    )


def wait_until_held_back(shipper: Shipper) -> None:
    """Wait until nothing has been taken out of its pipe, which is not empty, for a while."""
    assert shipper.process.stdin
    descriptor = shipper.process.stdin.fileno()

    def is_held_back() -> bool:
        before = unread(descriptor)
        time.sleep(0.3)
        return before > 0 and unread(descriptor) == before

    wait_until(is_held_back, "held back")


def drain(collectors: Sequence[Collector], count: int) -> list[bytes]:
    """The text of the next `count` events, whichever of them gets it."""
    texts: list[bytes] = []
    ends_at = time.monotonic() + DEADLINE_S
    while len(texts) < count:
        assert time.monotonic() < ends_at, f"{len(texts)} of {count} events came"
        for collector in collectors:
            while not collector.is_silent(for_ms=1):
                texts.append(collector.texts(1)[0].encode())
    return texts


def numbered_objects(count: int) -> list[bytes]:
    """Lines of which two in three are JSON objects."""
    return [b'{"n":%d}' % n if n % 3 else b"line %d" % n for n in range(count)]


# ---- what may come twice ----------------------------------------------------------------------

PAD = "x" * 1000  # makes events so large that libzmq's 8 kB hold few of them


def held(sndhwm: int, least_size: int) -> int:
    """How many messages of at least so many bytes a connection holds: SNDHWM, and 8 kB of them."""
    return sndhwm + 8192 // least_size + 1


# ---- without a process ------------------------------------------------------------------------


def make_files(directory: Path, count: int) -> list[bytes]:
    """Leave `count` files behind, as processes do; returns the messages in them.

    Every third file is empty, as of one that was killed with nothing to send.
    """
    messages = []
    for number in range(count):
        file = SpoolFile.create(str(directory))
        for chunk in range(number % 3):
            texts = [b"%d %d %d" % (number, chunk, line) for line in range(4)]
            file.append(Finished(b"\n".join(texts), len(texts), 1))
            messages += texts
        file.let_go()
    return messages


def make_spool(directory: Path) -> Spool:
    """A spool as in a process, but in this one and without a socket."""
    options = zmqpush.parse_options(zmqpush.build_parser(""), ["--format", "raw"])
    return Spool(str(directory), 0, zmqpush.make_format(options, 1))


def sent_from(directory: Path) -> list[bytes]:
    """All that it gives to be sent."""

    async def take_all() -> list[bytes]:
        spool = make_spool(directory)
        await spool.end()
        messages = []
        while chunk := await spool.get():
            some = chunk.messages()
            messages += some
            spool.sent += chunk.count()
            spool.done(chunk, 0)
        spool.close(delivered=True)
        return messages

    return asyncio.run(take_all())

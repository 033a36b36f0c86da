"""What the bench measures of memory: large lines, and somebody behind us who is stuck."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Callable

import zmq

from tests.bench import report
from tests.bench.measure import Child, interleave, memory_bytes, settle
from tests.bench.peers import BENCH, ZMQPUSH, StdinPeer
from tests.bench.report import Row, Section
from tests.bench.sections import QUIET_S, SETTLE_AT_MOST_S, Bench

LINE_SIZE = 500_000
TOTAL = 300_000_000  # bytes that are offered
RUNS = 3
LIMIT = 60_000_000
STUCK_S = 2.0  # after which nothing more will be taken
ZMQPULL = (sys.executable, str(BENCH.parent.parent / "zmqpull.py"), "--quiet")
SHIPPER = (sys.executable, str(ZMQPUSH), "--quiet")


def offer_lines(into: FileIO) -> int:
    """Write large lines as long as somebody takes them; how many bytes were taken."""
    line = b"x" * (LINE_SIZE - 1) + b"\n"
    written = 0
    os.set_blocking(into.fileno(), False)
    while written < TOTAL and select.select([], [into], [], STUCK_S)[1]:
        with contextlib.suppress(BlockingIOError):
            written += os.write(into.fileno(), line[written % LINE_SIZE :])
    return written


@contextlib.contextmanager
def stuck_socket() -> Iterator[str]:
    """The endpoint of a collector that takes nothing ahead, nor anything at all."""
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.set(zmq.RCVHWM, 1)
        pull.set(zmq.RCVBUF, 65_536)
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        yield f"tcp://127.0.0.1:{port}"


@contextlib.contextmanager
def shipper_that_waits(bench: Bench, endpoint: str, *options: str) -> Iterator[Child]:
    """A shipper that has all that it takes of large lines."""
    peer = StdinPeer("zmqpush", command=(*SHIPPER, *options, "--connect"))
    with peer.live(bench.tools, endpoint) as (child, feed):
        offer_lines(feed)
        settle(child.pid, QUIET_S, SETTLE_AT_MOST_S)
        yield child


def of_shipper(bench: Bench, *options: str) -> int:
    """The most memory that a shipper had whose collector is stuck."""
    with tempfile.TemporaryDirectory(dir=bench.tools.folder) as spool, stuck_socket() as endpoint:
        words = [word.replace("SPOOL", spool) for word in options]
        with shipper_that_waits(bench, endpoint, *words) as shipper:
            return memory_bytes(shipper.pid, "VmHWM")


def of_collector(bench: Bench) -> int:
    """The most memory that a collector had whose sink is stuck, with --ack."""
    with tempfile.TemporaryDirectory(dir=bench.tools.folder) as name:
        fifo, endpoint = Path(name, "fifo"), f"ipc://{name}/socket"
        os.mkfifo(fifo)
        # Open at both ends, and nobody reads.
        with FileIO(os.open(fifo, os.O_RDWR)):
            command = [*ZMQPULL, "--ack", "--bind", endpoint, "--output", str(fifo)]
            with Child("zmqpull", command, bench.tools.folder) as collector:
                words = ("--ack", "--spool", f"{name}/spool")
                with shipper_that_waits(bench, endpoint, *words):
                    return memory_bytes(collector.pid, "VmHWM")


def large_lines(bench: Bench) -> Section:
    """Lines of half a megabyte, and somebody who does not take them."""
    jobs: dict[str, Callable[[], int]] = {
        "stuck collector, --queue-limit 1M": partial(of_shipper, bench, "--queue-limit", "1M"),
        "stuck collector, --spool": partial(of_shipper, bench, "--spool", "SPOOL"),
        "stuck sink, zmqpull --ack": partial(of_collector, bench),
    }
    taken = interleave("memory", min(RUNS, bench.runs), jobs)
    rows = [
        Row(
            what,
            report.memory(max(sizes)),
            target=f"< {report.memory(LIMIT)}",
            reached=max(sizes) < LIMIT,
        )
        for what, sizes in taken.items()
    ]
    details = [
        f"Lines of {LINE_SIZE:,} bytes, up to {report.memory(TOTAL)} of them, as long as they are "
        "taken. Resident memory at its peak (VmHWM), the most of all runs."
    ]
    return Section("Memory with large lines and somebody who is stuck", rows, details)


SECTIONS: dict[str, Callable[[Bench], Section]] = {"memory": large_lines}

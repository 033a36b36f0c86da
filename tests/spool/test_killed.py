"""Killed shippers lose nothing that they had journaled, and repeat only what libzmq may hold.

The random choices are seeded: a failure comes again.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
import zmq.utils.monitor

from tests.spool.helpers import (
    ANY_PORT,
    PAD,
    assert_delivered,
    drain,
    held,
    leave_behind_killed,
    messages_in,
    names,
    start_draining,
    stderr_of,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector, strict_json
from tests.support.lines import lines, text, wait_until_pipe_is_empty
from tests.support.proc import wakeups
from tests.support.programs import Shipper, wait_until_connected, wait_until_read
from tests.support.spooled import rows
from tests.support.waiting import DEADLINE_S, wait_until


class Witness:
    """A collector that knows when its shippers are gone, so that it can go and lose nothing."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._pull = self._context.socket(zmq.PULL)
        self._pull.setsockopt(zmq.RCVHWM, 0)
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
        self._monitor = self._pull.get_monitor_socket(events)
        self._pull.bind(endpoint)
        self._connections = 0

    def receive_until_alone(self) -> list[bytes]:
        """All messages until nobody is connected."""
        ends_at = time.monotonic() + DEADLINE_S
        messages = []
        while True:
            while self._monitor.poll(0):
                event = zmq.utils.monitor.recv_monitor_message(self._monitor)["event"]
                self._connections += 1 if event == zmq.EVENT_ACCEPTED else -1
            with contextlib.suppress(zmq.Again):
                while True:
                    messages.append(self._pull.recv(zmq.NOBLOCK))
            if not self._connections:
                return messages
            assert time.monotonic() < ends_at, "somebody is still connected"
            self._monitor.poll(10)

    def close(self) -> None:
        """End it; may be called again."""
        self._context.destroy(linger=0)


@pytest.fixture
def witness(endpoint: str) -> Iterator[Callable[[], Witness]]:
    """Makes collectors at `endpoint`, one after the other."""
    with contextlib.ExitStack() as stack:

        def make() -> Witness:
            witness = Witness(endpoint)
            stack.callback(witness.close)
            return witness

        yield make


@contextlib.contextmanager
def fed_at_random(shipper: Shipper, run: int, seed: int) -> Iterator[None]:
    """Write numbered lines `RUN NUMBER` as they may come, until it is killed."""

    def write() -> None:
        chance = random.Random(seed)
        number = 0
        with contextlib.suppress(OSError, ValueError):
            while number < 1500:
                count = chance.choice([1, 1, 1, 10, 100])
                piece = text([b"%d %d" % (run, number + n) for n in range(count)])
                shipper.write(piece)
                number += count
                time.sleep(chance.uniform(0, 0.004))

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield
    finally:
        shipper.process.kill()
        shipper.process.wait()
        writing.join()
        shipper.stop()


def has_file_of(pid: int, directory: Path) -> bool:
    return directory.exists() and any(f"-{pid}.spool" in name for name in names(directory))


def run_and_number(message: bytes) -> tuple[int, int]:
    found = re.fullmatch(rb'\{"message":"(\d+) (\d+)","type":"syslog","@pid":\d+\}', message)
    assert found, message
    return int(found[1]), int(found[2])


@pytest.mark.long
@pytest.mark.timeout(180)
def test_what_was_journaled_arrives_in_order_though_shippers_are_killed_at_random_moments(
    directory: Path, endpoint: str, witness: Callable[[], Witness], ship: Ship
) -> None:
    kills, sndhwm = 30, 20
    chance = random.Random(2120)
    received: list[tuple[int, int]] = []
    journaled: Counter[int] = Counter()  # by run: how many of its lines were on disk
    repeated = 0
    for run in range(kills):
        is_there, comes = chance.choice(
            [(True, False), (True, False), (False, True), (False, False)]
        )
        there = witness() if is_there else None
        shipper = ship("-c", endpoint, "--spool", str(directory), "--sndhwm", str(sndhwm))
        with fed_at_random(shipper, run, seed=run):
            if chance.random() < 0.8:
                wait_until(lambda: has_file_of(shipper.pid, directory), "started")  # noqa: B023
            time.sleep(chance.uniform(0, 0.12))
            if comes:
                there = witness()
            time.sleep(chance.uniform(0, 0.12))
        if there:
            received += map(run_and_number, there.receive_until_alone())
            there.close()
        left = rows(directory) if directory.exists() else []
        kept = [list(map(run_and_number, row.messages())) for row in left]
        for of_run, number in itertools.chain(*kept):
            journaled[of_run] = max(journaled[of_run], number + 1)
        seen = set(received)
        sent = [sum(line in seen for line in chunk) for chunk in kept]
        repeated += sum(sent)

    there = witness()
    result = start_draining(ship, endpoint, directory).finish()
    assert (result.status, stderr_of(result)) == (0, "")
    assert names(directory) == []
    received += map(run_and_number, there.receive_until_alone())

    numbers_of: dict[int, list[int]] = {}
    for of_run, number in received:
        numbers_of.setdefault(of_run, []).append(number)
    for of_run, numbers in numbers_of.items():
        assert list(dict.fromkeys(numbers)) == list(range(max(numbers) + 1)), of_run
        assert all(then == now + 1 or then <= now for now, then in zip(numbers, numbers[1:]))
    for of_run, count in journaled.items():
        assert len(set(numbers_of[of_run])) >= count
    unique = len(set(received))
    twice = len(received) - unique
    print(f"{kills} killed, {unique} lines arrived, {twice} of them repeated")
    assert twice <= repeated
    assert unique > 2_500


@pytest.mark.long
def test_line_is_kept_as_soon_as_the_pipe_is_empty_and_it_sleeps(
    directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    expected = []
    for run in range(3):
        data = lines(700, start=1000 * run)
        leave_behind_killed(ship, endpoint, directory, text(data), "--format", "raw")
        expected += data
    assert len([name for name in names(directory) if name.endswith(".spool")]) == 3
    assert_delivered(start_draining(ship, eager_collector.endpoint, directory).finish(), 2100)
    assert eager_collector.receive(2100) == expected
    assert eager_collector.is_silent()
    assert names(directory) == []


@pytest.mark.long
@pytest.mark.parametrize("connections", [1, 2, 3])
def test_killed_it_repeats_what_its_connections_may_hold_and_no_more(
    connections: int, directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    chunk, sndhwm = 20, 10
    collectors = [collect(ANY_PORT) for _ in range(connections)]
    endpoints = [word for each in collectors for word in ("-c", each.endpoint)]
    options = ("--spool", str(directory), "--sndhwm", str(sndhwm), "-f", f"pad={PAD}")
    shipper = ship(*endpoints, *options)
    wait_until_connected(shipper, connections)
    expected = lines(30 * chunk)
    for start in range(0, len(expected), chunk):
        shipper.write(text(expected[start : start + chunk]))
        wait_until_pipe_is_empty(shipper)
    wait_until_read(shipper)
    assert Counter(drain(collectors, len(expected))) == Counter(expected)
    shipper.stop()

    left = [strict_json(message)["message"].encode() for message in messages_in(directory)]
    empty = b'  {"message":"","type":"syslog","@pid":%d,"pad":"%b"}' % (shipper.pid, PAD.encode())
    least = connections * held(sndhwm, len(empty))
    assert least <= len(left) < least + 2 * connections * chunk
    # In their order; of several connections, one may have been given its last ones earlier.
    assert left == [line for line in expected if line in set(left)]
    assert connections > 1 or left == expected[len(expected) - len(left) :]
    last = collect(endpoint)
    assert_delivered(start_draining(ship, endpoint, directory).finish(), len(left))
    assert last.texts(len(left)) == [line.decode() for line in left]


@pytest.mark.long
def test_killed_it_repeats_nothing_that_all_of_those_who_connect_had_acknowledged(
    directory: Path, endpoint: str, ship: Ship
) -> None:
    chunk, sndhwm = 20, 10
    options = ("--spool", str(directory), "--sndhwm", str(sndhwm), "-f", f"pad={PAD}")
    shipper = ship("-b", endpoint, *options)
    expected = lines(1000)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pullers = [context.socket(zmq.PULL) for _ in range(2)]
    received: list[bytes] = []
    try:
        for puller in pullers:
            puller.connect(endpoint)
        wait_until_connected(shipper, 2)
        for start in range(0, len(expected), chunk):
            shipper.write(text(expected[start : start + chunk]))
            wait_until_pipe_is_empty(shipper)
        poller = zmq.Poller()
        for puller in pullers:
            poller.register(puller, zmq.POLLIN)
        while len(received) < len(expected):
            ready = poller.poll(int(DEADLINE_S * 1000))
            assert ready, f"{len(received)} of {len(expected)} came"
            received += [strict_json(puller.recv())["message"].encode() for puller, _ in ready]
        wait_until(lambda: not wakeups(shipper.pid, 1.0)[1], "it has looked at what has left")
    finally:
        shipper.stop()
        context.destroy(linger=0)
    assert sorted(received) == expected
    assert messages_in(directory) == []

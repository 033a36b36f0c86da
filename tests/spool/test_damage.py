"""What `--spool` promises: lines outlive the shipper, on a disk that fills up, goes, or lies.

Shippers are killed with -9 at random moments, their files are cut short and overwritten, and their
directory is taken away. The random choices are seeded: a failure comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import random
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zmq
import zmq.utils.monitor

import zmqpush
from tests.support.collector import Collector, strict_json
from tests.support.proc import proc_status, wait_until_stopped
from tests.support.programs import Result, Shipper
from tests.support.waiting import DEADLINE_S, wait_until
from tests.test_delivery import (
    fill,
    lines,
    python_by,
    text,
    wait_for_signals,
    wait_until_asleep,
    wait_until_connected,
    wait_until_read,
    waiting_in,
)

Ship = Callable[..., Shipper]
Collect = Callable[..., Collector]


# ---- what the tests look at -------------------------------------------------------------------


# A loopback address of this process: no shipper of anybody else is looking for a collector there.
ADDRESS = f"127.251.{os.getpid() // 250 % 250}.{1 + os.getpid() % 250}"
ANY_PORT = f"tcp://{ADDRESS}:*"


@pytest.fixture
def endpoint() -> str:
    """Where nobody listens yet, nor will anybody else."""
    with socket.create_server((ADDRESS, 0)) as server:
        return f"tcp://{ADDRESS}:{server.getsockname()[1]}"


@pytest.fixture
def collector(collect: Collect) -> Collector:
    """A collector that takes what comes before anybody asks for it."""
    return collect(ANY_PORT, RCVHWM=0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A DIR that is not there yet."""
    return tmp_path / "spool"


class Row(NamedTuple):
    """A chunk in a file."""

    number: int
    events: int
    batch: int
    text: bytes

    def messages(self) -> list[bytes]:
        return self.text.split(b"\n")


def rows(directory: Path) -> list[Row]:
    """What dead processes have left behind in `directory`, the oldest first; seen in a copy."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(directory, Path(scratch, "copy"))
        for path in sorted(copy.glob("*.spool")):
            with contextlib.closing(sqlite3.connect(path)) as database:
                if database.execute("SELECT 1 FROM sqlite_master").fetchall():
                    select = "SELECT number, events, batch, text FROM chunk ORDER BY number"
                    found += map(Row._make, database.execute(select))
    return found


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
    shipper.write(data)
    wait_until_read(shipper)
    shipper.stop()
    return shipper


def start_draining(ship: Ship, endpoint: str, directory: Path, **settings: Any) -> Shipper:
    """Start a process that has nothing to send but what was left behind."""
    options = ("-c", endpoint, "--spool", str(directory), "--format", "raw")
    return ship(*options, stdin=subprocess.DEVNULL, **settings)


def stderr_of(result: Result) -> str:
    """Its stderr, but for the notice that it still delivers a second after the end of input."""
    notice = r"zmqpush\.py: the input has ended; (up to )?\d+ messages .+\n"
    return re.sub(notice, "", result.stderr)


def kept_in(directory: Path, waiting: int, uncertain: int = 0) -> str:
    """What the last line on stderr says where a process leaves messages behind."""
    return (
        f"zmqpush.py: {waiting} messages wait in {directory}, and {uncertain} that were "
        "handed over and may have arrived: the next start sends them\n"
    )


def held(sndhwm: int, least_size: int) -> int:
    """How many messages of at least so many bytes a connection holds: SNDHWM, and 8 kB of them."""
    return sndhwm + 8192 // least_size + 1


@contextlib.contextmanager
def in_background(write: Callable[[], None], shipper: Shipper) -> Iterator[None]:
    """Write on a thread, for the writer may be held back; at the end all of it is taken."""

    def write_what_can_be() -> None:
        with contextlib.suppress(BrokenPipeError):
            write()

    writing = threading.Thread(target=write_what_can_be)
    writing.start()
    try:
        yield
        writing.join(DEADLINE_S)
        assert not writing.is_alive(), "the writer is still held back"
    finally:
        if writing.is_alive():
            shipper.process.kill()
        writing.join()


def written_in_background(shipper: Shipper, data: bytes) -> contextlib.AbstractContextManager[None]:
    return in_background(lambda: shipper.write(data), shipper)


def wait_until_drawn(shipper: Shipper) -> None:
    """Wait until its pipe is empty: what is written next is a chunk of its own."""
    assert shipper.process.stdin
    descriptor = shipper.process.stdin.fileno()
    wait_until(lambda: not waiting_in(descriptor), "the pipe is empty")


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


def wait_until_held_back(shipper: Shipper) -> None:
    """Wait until nothing has been taken out of its pipe, which is not empty, for a while."""
    assert shipper.process.stdin
    descriptor = shipper.process.stdin.fileno()

    def is_held_back() -> bool:
        before = waiting_in(descriptor)
        time.sleep(0.3)
        return before > 0 and waiting_in(descriptor) == before

    wait_until(is_held_back, "held back")


# ---- the directory ----------------------------------------------------------------------------


@pytest.mark.long
def test_directory_is_made_and_is_for_its_owner_alone(
    tmp_path: Path, endpoint: str, ship: Ship
) -> None:
    directory = tmp_path / "var" / "spool"
    shipper = ship("-c", endpoint, "--spool", str(directory), umask=0)
    shipper.write(b"x\n")
    wait_until_read(shipper)
    assert directory.stat().st_mode & 0o7777 == 0o700
    assert {path.stat().st_mode & 0o7777 for path in directory.iterdir()} == {0o600}
    assert [name for name in names(directory) if name.endswith(".spool")]


@pytest.mark.long
def test_directory_may_be_relative_and_have_any_name(
    tmp_path: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    name = os.fsdecode(b"a b?mode=ro#%20\xe9\n'\"")
    leave_behind(ship, endpoint, Path(name), b"one\n", cwd=tmp_path)
    assert names(tmp_path) == [name]
    result = start_draining(ship, collector.endpoint, Path(name), cwd=tmp_path).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 1, "")
    assert collector.texts(1) == ["one"]
    assert names(tmp_path / name) == []


@pytest.mark.long
@pytest.mark.parametrize("place", ["a file", "below a file", "in /proc", "dangling"])
def test_directory_that_cannot_be_used_is_one_line_and_status_2(
    place: str, tmp_path: Path, endpoint: str, ship: Ship
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at all")
    directory = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "spool",
        "in /proc": Path("/proc/spool"),
        "dangling": tmp_path / "dangling",
    }[place]
    result = ship("-c", endpoint, "--spool", str(directory)).finish(b"x\n")
    assert (result.status, result.stdout) == (2, "")
    assert re.fullmatch(
        rf"zmqpush\.py: --spool {re.escape(str(directory))}: .+\n", stderr_of(result)
    )


class Disk:
    """A small file system (tmpfs) in a mount namespace, which ends with the process inside."""

    def __init__(self, folder: Path, options: str) -> None:
        place = folder / "disk"
        place.mkdir()
        mount = f"mount -t tmpfs -o {options} tmpfs {shlex.quote(str(place))}"
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f"{mount} && echo mounted && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._keeper.stdout
        self.is_mounted = self._keeper.stdout.readline() == b"mounted\n"
        namespace = f"/proc/{self._keeper.pid}/ns/mnt"
        self.inside = {"executable": python_by(folder, f"nsenter --mount={namespace}")}
        self.directory = place / "spool"  # as seen from inside
        self.seen = Path(f"/proc/{self._keeper.pid}/root{self.directory}")  # by us
        self._filler = self.seen.with_name("filler")

    def fill_up(self, leave: int = 0) -> None:
        """Let somebody else take all of it but `leave` bytes."""
        with self._filler.open("ab", buffering=0) as filler:
            free = os.fstatvfs(filler.fileno())
            os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_bsize - leave)

    def make_room(self) -> None:
        """Take away what `fill_up()` has put there."""
        self._filler.unlink()

    def close(self) -> None:
        self._keeper.kill()
        self._keeper.communicate()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Disk]]:
    """Makes file systems of a size such as `4m`."""
    if os.geteuid() or not shutil.which("nsenter"):
        pytest.skip("a small disk needs root and a mount namespace")
    with contextlib.ExitStack() as stack:

        def make(options: str) -> Disk:
            disk = Disk(tmp_path, options)
            stack.callback(disk.close)
            if not disk.is_mounted:
                pytest.skip("no tmpfs in a mount namespace here")
            return disk

        yield make


@pytest.mark.long
def test_directory_that_is_read_only_is_one_line_and_status_2(
    endpoint: str, disk: Callable[[str], Disk], ship: Ship
) -> None:
    read_only = disk("ro")
    for directory in (read_only.directory, read_only.directory.parent):
        shipper = ship("-c", endpoint, "--spool", str(directory), **read_only.inside)
        result = shipper.finish(b"x\n")
        assert (result.status, result.stdout) == (2, "")
        assert stderr_of(result) == f"zmqpush.py: --spool {directory}: Read-only file system\n"


# ---- without trouble --------------------------------------------------------------------------


def numbered_objects(count: int) -> list[bytes]:
    """Lines of which two in three are JSON objects."""
    return [b'{"n":%d}' % n if n % 3 else b"line %d" % n for n in range(count)]


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("form", ["logstash", "json"])
@pytest.mark.parametrize("stamp", [[], ["--timestamp"]], ids=["", "timestamp"])
def test_events_arrive_as_without_a_spool_in_order_and_once(
    batch: int, form: str, stamp: list[str], directory: Path, collector: Collector, ship: Ship
) -> None:
    arguments = ["app", "--format", form, "--batch", str(batch), "-f", 'site="ä"', *stamp]
    shipper = ship("-c", collector.endpoint, "--spool", str(directory), *arguments)
    objects = numbered_objects(5000)
    with written_in_background(shipper, text(objects)):
        received: list[dict[str, Any]] = []
        while len(received) < len(objects):
            (message,) = collector.receive(1)
            received += strict_json(message if batch > 1 else b"[" + message + b"]")
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(objects), "")
    assert collector.is_silent()
    assert names(directory) == []
    common = {"type": "app", "@pid": shipper.pid, "site": '"ä"'}
    for n, (event, line) in enumerate(zip(received, objects)):
        if stamp:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("@timestamp"))
        spliced = form == "json" and n % 3
        own = {"n": n} if spliced else {"message": line.decode()}
        assert event == {**own, **common}


def test_raw_lines_arrive_in_order_and_once_the_empty_ones_too(
    directory: Path, collector: Collector, ship: Ship
) -> None:
    choose = random.Random(3).choice
    expected = [choose([b"", b"", b"%d" % n, b"\xff\x00 %d " % n]) for n in range(20_000)]
    shipper = ship("-c", collector.endpoint, "--spool", str(directory), "--format", "raw")
    with written_in_background(shipper, b"\n\n" + text(expected) + b"\n"):
        assert collector.receive(2 + len(expected) + 1) == [b"", b"", *expected, b""]
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(expected) + 3, "")
    assert names(directory) == []


@pytest.mark.long
@pytest.mark.parametrize("data", [b"\n", b"\n\n", b"\n\n\n", b"a\n\n", b"\na\n"])
def test_raw_empty_lines_are_kept_on_disk(
    data: bytes, directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    leave_behind(ship, endpoint, directory, data, "--format", "raw")
    result = start_draining(ship, collector.endpoint, directory).finish()
    expected = data[:-1].split(b"\n")
    assert (result.status, result.processed, stderr_of(result)) == (0, len(expected), "")
    assert collector.receive(len(expected)) == expected
    assert collector.is_silent()


def test_each_line_arrives_without_waiting_for_the_next(
    directory: Path, collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", collector.endpoint, "--spool", str(directory), "--format", "raw")
    for line in lines(100):
        shipper.write(line + b"\n")
        assert collector.receive(1) == [line]
    assert shipper.finish().processed == 100


@pytest.mark.long
def test_file_as_input_is_sent_in_order(
    tmp_path: Path, directory: Path, collector: Collector, ship: Ship
) -> None:
    expected = lines(100_000, size=99)
    path = tmp_path / "log"
    path.write_bytes(text(expected))
    options = ("-c", collector.endpoint, "--spool", str(directory), "--format", "raw")
    with path.open("rb") as log:
        result = ship(*options, stdin=log).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(expected), "")
    assert collector.receive(len(expected)) == expected
    assert names(directory) == []


@pytest.mark.long
def test_line_longer_than_what_is_loaded_at_once_is_kept_and_arrives(
    directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    line = b"x" * 5_000_000
    leave_behind(ship, endpoint, directory, line + b"\nend\n", "--max-line", "0")
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, stderr_of(result)) == (0, "")
    assert collector.texts(2) == [line.decode(), "end"]


# ---- the collector is away --------------------------------------------------------------------


@pytest.mark.long
def test_lines_wait_on_disk_and_arrive_in_order_when_the_collector_comes(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    expected = lines(60_000, size=99)
    shipper.write(text(expected[:50_000]))
    wait_until_read(shipper)
    assert size_of(directory) > 5_000_000
    with written_in_background(shipper, text(expected[50_000:])):
        assert collect(endpoint).receive(60_000) == expected
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 60_000, "")
    assert names(directory) == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_after_the_end_of_input_ends_it_at_once_and_what_waits_is_kept(
    number: signal.Signals, directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    shipper = ship("app", "-c", endpoint, "--spool", str(directory), "-f", "site=ams")
    shipper.write(text(lines(5000)))
    shipper.end_input()
    assert shipper.read_stderr_line() == (
        f"zmqpush.py: the input has ended; 5000 messages wait in {directory} "
        f"for a collector at {endpoint}\n"
    )
    begin = time.monotonic()
    shipper.signal(number)
    result = shipper.finish()
    assert time.monotonic() - begin < 1.5
    assert (result.status, result.processed) == (0, 0)
    assert stderr_of(result) == kept_in(directory, 5000)
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 5000, "")
    assert collector.receive(5000) == [
        b'{"message":"%s","type":"app","@pid":%d,"site":"ams"}' % (line, shipper.pid)
        for line in lines(5000)
    ]
    assert collector.is_silent()
    assert names(directory) == []


@pytest.mark.long
def test_sigint_while_input_goes_on_keeps_what_is_in_the_pipe(
    directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory))
    wait_for_signals(shipper, signal.SIGINT)
    wait_until_asleep(shipper.pid)
    shipper.signal(signal.SIGSTOP)
    wait_until_stopped(shipper.pid)
    shipper.write(text(lines(5000)))
    shipper.signal(signal.SIGINT)
    begin = time.monotonic()
    shipper.signal(signal.SIGCONT)
    assert shipper.process.wait(DEADLINE_S) == 0
    assert time.monotonic() - begin < 1.5
    assert shipper.finish().stderr == kept_in(directory, 5000)
    start_draining(ship, collector.endpoint, directory)
    assert collector.texts(5000) == [line.decode() for line in lines(5000)]


@pytest.mark.long
def test_sigterm_reads_on_and_keeps_what_comes_until_the_end_of_input(
    directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory))
    shipper.write(b"one\n")
    wait_until_read(shipper)
    shipper.signal(signal.SIGTERM)
    shipper.write(b"two\n")
    wait_until_read(shipper)
    begin = time.monotonic()
    result = shipper.finish(b"three\n")
    assert time.monotonic() - begin < 1.5
    assert (result.status, stderr_of(result)) == (0, kept_in(directory, 3))
    start_draining(ship, collector.endpoint, directory)
    assert collector.texts(3) == ["one", "two", "three"]


@pytest.mark.long
def test_signal_while_the_collector_does_not_read_tells_what_may_have_arrived(
    directory: Path, collect: Collect, ship: Ship
) -> None:
    deaf = collect(ANY_PORT, RCVHWM=1, RCVBUF=4096)
    options = ("--spool", str(directory), "--sndhwm", "10", "--format", "raw")
    shipper = ship("-c", deaf.endpoint, *options)
    expected = lines(100_000, size=99)
    shipper.write(text(expected))
    wait_until_read(shipper)
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 0
    said = re.search(
        r" (\d+) messages wait in .*, and (\d+) that were handed over", stderr_of(result)
    )
    assert said
    assert stderr_of(result) == kept_in(directory, int(said[1]), int(said[2]))
    assert int(said[1]) + result.processed == len(expected)
    left = messages_in(directory)
    assert left == expected[len(expected) - len(left) :]
    assert int(said[1]) + int(said[2]) == len(left)
    assert int(said[2]) > 0


def test_what_several_types_left_behind_is_sent_as_it_was_meant_oldest_first_and_before_own_lines(
    directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    app = leave_behind(
        ship, endpoint, directory, text(numbered_objects(5)),
        *("app", "--format", "json", "--batch", "2", "-f", "site=ams"),
    )  # fmt: skip
    journal = leave_behind(
        ship, endpoint, directory, b'say "hi"\nbye\n', "journal", "-f", "host=a", "-f", "x=y"
    )
    leave_behind(ship, endpoint, directory, b"raw\n\n", "--format", "raw")
    batches = leave_behind(ship, endpoint, directory, b"a\nb\nc\n", "--batch", "500")
    assert len(names(directory)) == 4
    own = ship("-c", collector.endpoint, "own", "--spool", str(directory), "-f", "z=1")
    result = own.finish(b"own\n")
    assert (result.status, result.processed, stderr_of(result)) == (0, 13, "")
    tail = b'"type":"app","@pid":%d,"site":"ams"}' % app.pid
    plain = b'"type":"syslog","@pid":%d}' % batches.pid
    assert collector.receive(9) == [
        b'[{"message":"line 0",%b,{"n":1,%b]' % (tail, tail),
        b'[{"n":2,%b,{"message":"line 3",%b]' % (tail, tail),
        b'[{"n":4,%b]' % tail,
        b'{"message":"say \\"hi\\"","type":"journal","@pid":%d,"host":"a","x":"y"}' % journal.pid,
        b'{"message":"bye","type":"journal","@pid":%d,"host":"a","x":"y"}' % journal.pid,
        b"raw",
        b"",
        b'[{"message":"a",%b,{"message":"b",%b,{"message":"c",%b]' % (plain, plain, plain),
        b'{"message":"own","type":"own","@pid":%d,"z":"1"}' % own.pid,
    ]
    assert collector.is_silent()
    assert names(directory) == []


# ---- killed -----------------------------------------------------------------------------------


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
    kills, sndhwm = 55, 20
    chance = random.Random(2120)
    most_held = held(sndhwm, len(b'  {"message":"","type":"syslog","@pid":1}'))  # and a frame head
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
        in_hand = max((len(chunk) for chunk, some in zip(kept, sent) if some), default=0)
        assert sum(sent) < most_held + sum(map(len, kept[:1])) + in_hand
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
    assert unique > 5_000


@pytest.mark.long
def test_line_is_kept_as_soon_as_the_pipe_is_empty_and_it_sleeps(
    directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    expected = []
    for run in range(3):
        data = lines(700, start=1000 * run)
        leave_behind_killed(ship, endpoint, directory, text(data), "--format", "raw")
        expected += data
    assert len([name for name in names(directory) if name.endswith(".spool")]) == 3
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 2100, "")
    assert collector.receive(2100) == expected
    assert collector.is_silent()
    assert names(directory) == []


PAD = "x" * 1000  # makes events so large that libzmq's 8 kB hold few of them


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
        wait_until_drawn(shipper)
    wait_until_read(shipper)
    assert Counter(drain(collectors, len(expected))) == Counter(expected)
    shipper.stop()

    left = [strict_json(message)["message"].encode() for message in messages_in(directory)]
    empty = b'  {"message":"","type":"syslog","@pid":%d,"pad":"%b"}' % (shipper.pid, PAD.encode())
    least = connections * held(sndhwm, len(empty))
    assert least <= len(left) < least + chunk
    assert left == expected[len(expected) - len(left) :]
    last = collect(endpoint)
    result = start_draining(ship, endpoint, directory).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(left), "")
    assert last.texts(len(left)) == [line.decode() for line in left]


# ---- files of others --------------------------------------------------------------------------


@pytest.mark.long
def test_running_shipper_sends_what_another_has_left_behind(
    directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", collector.endpoint, "--spool", str(directory), "--format", "raw")
    shipper.write(b"one\n")
    assert collector.receive(1) == [b"one"]
    wait_until_asleep(shipper.pid)
    leave_behind_killed(ship, endpoint, directory, b"left\nbehind\n", "--format", "raw")
    shipper.write(b"two\n")
    received = collector.receive(3)
    assert [line for line in received if line != b"two"] == [b"left", b"behind"]
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 4, "")
    assert names(directory) == []


def test_file_of_a_living_process_is_not_touched(
    directory: Path, endpoint: str, collect: Collect, collector: Collector, ship: Ship
) -> None:
    living = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    expected = lines(5000)
    living.write(text(expected))
    wait_until_read(living)
    before = {path: path.read_bytes() for path in directory.iterdir()}
    other = ship("-c", collector.endpoint, "--spool", str(directory), "--format", "raw")
    result = other.finish(b"other\n")
    assert (result.status, result.processed, stderr_of(result)) == (0, 1, "")
    assert collector.receive(1) == [b"other"]
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
    assert collect(endpoint).receive(5000) == expected
    result = living.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 5000, "")
    assert collector.is_silent()
    assert names(directory) == []


def make_files(directory: Path, count: int) -> list[bytes]:
    """Leave `count` files behind, as processes do; returns the messages in them.

    Every third file is empty, as of one that was killed with nothing to send.
    """
    messages = []
    for number in range(count):
        file = zmqpush.SpoolFile.create(str(directory))
        for chunk in range(number % 3):
            texts = [b"%d %d %d" % (number, chunk, line) for line in range(4)]
            file.append(zmqpush.Finished(b"\n".join(texts), len(texts), 1))
            messages += texts
        file.let_go()
    return messages


@pytest.mark.long
def test_any_number_of_files_is_drained_in_their_order(
    directory: Path, collector: Collector, ship: Ship
) -> None:
    expected = make_files(directory, 150)
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(expected), "")
    assert collector.receive(len(expected)) == expected
    assert names(directory) == []


@pytest.mark.long
@pytest.mark.parametrize("attempt", range(2))
def test_processes_started_at_once_share_what_was_left_behind_and_nothing_is_sent_twice(
    attempt: int, directory: Path, collector: Collector, ship: Ship
) -> None:
    expected = make_files(directory, 100)
    shippers = [start_draining(ship, collector.endpoint, directory) for _ in range(2)]
    results = [shipper.finish() for shipper in shippers]
    assert [(result.status, stderr_of(result)) for result in results] == [(0, ""), (0, "")]
    assert sum(result.processed for result in results) == len(expected)
    received = collector.receive(len(expected))
    assert collector.is_silent()
    assert sorted(received) == sorted(expected)
    assert names(directory) == []


@pytest.mark.long
def test_two_processes_with_input_of_their_own_adopt_at_once_and_nothing_is_sent_twice(
    directory: Path, collector: Collector, ship: Ship
) -> None:
    expected = make_files(directory, 30)
    options = ("-c", collector.endpoint, "--spool", str(directory), "--format", "raw")
    shippers = [ship(*options) for _ in range(2)]
    own = [b"own %d %d" % (n, number) for n in range(2) for number in range(1000)]
    shippers[0].write(text(own[:1000]))
    shippers[1].write(text(own[1000:]))
    for shipper in shippers:
        result = shipper.finish()
        assert (result.status, stderr_of(result)) == (0, "")
    received = collector.receive(len(expected) + len(own))
    assert collector.is_silent()
    assert sorted(received) == sorted(expected + own)
    assert names(directory) == []


def test_numbers_beyond_32_bits_are_sent(directory: Path, collector: Collector, ship: Ship) -> None:
    file = zmqpush.SpoolFile.create(str(directory))
    file.append(zmqpush.Finished(b"first", 1, 1))
    file._db.execute("UPDATE sqlite_sequence SET seq = ?", (2**31,))
    file.append(zmqpush.Finished(b"later", 1, 1))
    file.close()
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 2, "")
    assert collector.receive(2) == [b"first", b"later"]
    assert names(directory) == []


# ---- a full disk ------------------------------------------------------------------------------

FULL = (
    "zmqpush.py: cannot write to the spool: No space left on device; reading on when that is over\n"
)


@pytest.fixture
def small_disk(disk: Callable[[str], Disk]) -> Disk:
    return disk("size=24m")


def start_on(disk: Disk, endpoint: str, ship: Ship, *arguments: str) -> Shipper:
    options = ("-c", endpoint, "--spool", str(disk.directory), "--format", "raw")
    return ship(*options, *arguments, **disk.inside)


@pytest.mark.long
@pytest.mark.parametrize("size", [100, 2000])
def test_full_disk_holds_the_writer_back_and_everything_arrives_when_the_collector_comes(
    size: int, small_disk: Disk, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = start_on(small_disk, endpoint, ship)
    expected = lines(30_000_000 // size, size=size - 1)
    with written_in_background(shipper, text(expected)):
        assert shipper.read_stderr_line() == FULL
        wait_until_held_back(shipper)
        assert collect(endpoint).receive(len(expected)) == expected
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(expected), "")
    assert names(small_disk.seen) == []


@pytest.mark.long
def test_full_disk_and_lines_one_at_a_time(
    small_disk: Disk, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = start_on(small_disk, endpoint, ship)
    shipper.write(b"0\n")
    wait_until_read(shipper)
    small_disk.fill_up(leave=zmqpush.DISK_RESERVE + 1_000_000)
    expected = [b"%d" % number for number in range(2000)]

    def write() -> None:
        for line in expected[1:]:
            shipper.write(line + b"\n")
            time.sleep(0.001)

    with in_background(write, shipper):
        assert collect(endpoint).receive(len(expected)) == expected
    result = shipper.finish()
    assert result.status == 0
    assert stderr_of(result) in ("", FULL)
    assert names(small_disk.seen) == []


@pytest.mark.long
def test_disk_that_others_fill_is_said_once_and_what_is_on_it_is_sent_and_it_goes_on_with_room(
    small_disk: Disk, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = start_on(small_disk, endpoint, ship)
    expected = lines(60_000, size=99)
    shipper.write(text(expected[:30_000]))
    wait_until_read(shipper)
    small_disk.fill_up()
    with written_in_background(shipper, text(expected[30_000:])):
        assert shipper.read_stderr_line() == FULL
        wait_until_held_back(shipper)
        collector = collect(endpoint)
        assert collector.receive(30_000) == expected[:30_000]
        small_disk.make_room()
        assert collector.receive(30_000) == expected[30_000:]
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 60_000, "")
    assert names(small_disk.seen) == []


@pytest.mark.long
def test_disk_that_is_full_a_second_time_is_said_again(
    small_disk: Disk, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = start_on(small_disk, endpoint, ship)
    shipper.write(b"one\n")
    wait_until_read(shipper)
    collector = None
    for number in range(2):
        small_disk.fill_up()
        shipper.write(b"%d\n" % number)
        assert shipper.read_stderr_line() == FULL
        small_disk.make_room()
        collector = collector or collect(endpoint)
        assert collector.receive(1 if number else 2)[-1] == b"%d" % number
        wait_until_asleep(shipper.pid)
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 3, "")


@pytest.mark.long
@pytest.mark.parametrize("by_others", [False, True], ids=["by-itself", "by-others"])
def test_killed_on_a_full_disk_nothing_that_was_journaled_is_lost(
    by_others: bool, small_disk: Disk, endpoint: str, collector: Collector, ship: Ship
) -> None:
    expected = lines(300_000, size=99)
    shipper = start_on(small_disk, endpoint, ship)
    with written_in_background(shipper, text(expected)):
        assert shipper.read_stderr_line() == FULL
        wait_until_held_back(shipper)
        shipper.process.kill()
    left = messages_in(small_disk.seen)
    assert len(left) > 100_000
    assert left == expected[: len(left)]
    if by_others:
        small_disk.fill_up()
        before = names(small_disk.seen)
        refused = start_draining(ship, endpoint, small_disk.directory, **small_disk.inside).finish()
        assert refused.status == 2
        assert re.fullmatch(r"zmqpush\.py: --spool \S+: .+\n", refused.stderr)
        assert names(small_disk.seen) == before
        small_disk.make_room()
    drained = start_draining(ship, collector.endpoint, small_disk.directory, **small_disk.inside)
    assert collector.receive(len(left)) == left
    result = drained.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(left), "")
    assert names(small_disk.seen) == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_on_a_full_disk_gives_up_what_was_read_and_could_not_be_written(
    number: signal.Signals,
    small_disk: Disk,
    endpoint: str,
    collector: Collector,
    ship: Ship,
) -> None:
    shipper = start_on(small_disk, endpoint, ship)
    expected = lines(1000, size=99)
    shipper.write(text(expected[:900]))
    wait_until_read(shipper)
    small_disk.fill_up()
    shipper.write(text(expected[900:]))
    assert shipper.read_stderr_line() == FULL
    shipper.signal(number)
    begin = time.monotonic()
    result = shipper.finish()
    assert time.monotonic() - begin < 6
    assert (result.status, result.processed) == (1, 0)
    assert stderr_of(result) == (
        "zmqpush.py: gave up 100 messages: they could not be written to the spool\n"
        + kept_in(small_disk.directory, 900)
    )
    small_disk.make_room()
    drained = start_draining(ship, collector.endpoint, small_disk.directory, **small_disk.inside)
    assert collector.receive(900) == expected[:900]
    assert drained.finish().status == 0


@pytest.mark.long
def test_signal_on_a_full_disk_gives_nothing_up_where_all_that_was_read_is_written(
    small_disk: Disk, endpoint: str, ship: Ship
) -> None:
    shipper = start_on(small_disk, endpoint, ship)
    shipper.write(text(lines(900)))
    wait_until_read(shipper)
    small_disk.fill_up()
    shipper.signal(signal.SIGTERM)
    result = shipper.finish()
    assert (result.status, stderr_of(result)) == (0, kept_in(small_disk.directory, 900))


@pytest.mark.long
def test_disk_that_has_room_in_time_after_a_signal_takes_everything(
    small_disk: Disk, endpoint: str, ship: Ship
) -> None:
    shipper = start_on(small_disk, endpoint, ship)
    shipper.write(text(lines(900)))
    wait_until_read(shipper)
    small_disk.fill_up()
    shipper.write(text(lines(100)))
    assert shipper.read_stderr_line() == FULL
    shipper.signal(signal.SIGTERM)
    small_disk.make_room()
    result = shipper.finish(b"last\n")
    assert (result.status, stderr_of(result)) == (0, kept_in(small_disk.directory, 1001))
    assert len(messages_in(small_disk.seen)) == 1001


@pytest.mark.long
def test_disk_that_is_full_while_it_is_given_back_ends_nothing(
    disk: Callable[[str], Disk], endpoint: str, collect: Collect, ship: Ship
) -> None:
    """What was deleted is given back in steps, each of which writes."""
    busy = disk("size=120m")
    shipper = start_on(busy, endpoint, ship)
    expected = lines(80_000, size=999)
    shipper.write(text(expected))
    wait_until_read(shipper)
    stop = threading.Event()

    def keep_full() -> None:
        with busy.seen.with_name("filler").open("ab", buffering=0) as filler:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    filler.write(bytes(65_536))
                    continue
                stop.wait(0.001)

    filling = threading.Thread(target=keep_full)
    filling.start()
    try:
        collector = collect(endpoint)
        assert collector.receive(len(expected)) == expected
        wait_until_asleep(shipper.pid)
    finally:
        stop.set()
        filling.join()
    busy.make_room()
    shipper.write(b"last\n")
    assert collector.receive(1) == [b"last"]
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(expected) + 1, "")
    assert names(busy.seen) == []


# ---- damaged files ----------------------------------------------------------------------------


def overwrite(path: Path, noise: bytes, at: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(noise)


def noise_over_all(path: Path, chance: random.Random) -> None:
    overwrite(path, chance.randbytes(path.stat().st_size))


def noise_in_the_middle(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    overwrite(path, chance.randbytes(size // 3), size // 3)


def noise_over_the_head(path: Path, chance: random.Random) -> None:
    overwrite(path, chance.randbytes(100))


def cut_short(path: Path, chance: random.Random) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def left_behind_by(
    ship: Ship, endpoint: str, directory: Path, data: bytes, *arguments: str
) -> Path:
    """The file that a process leaves there with `data` in it."""
    before = set(directory.iterdir()) if directory.exists() else set()
    leave_behind(ship, endpoint, directory, data, *arguments, "--format", "raw")
    (path,) = set(directory.iterdir()) - before
    return path


@pytest.mark.long
@pytest.mark.parametrize("damaged", [0, 1], ids=["the-older", "the-younger"])
@pytest.mark.parametrize(
    "damage", [noise_over_all, noise_in_the_middle, noise_over_the_head, cut_short]
)
def test_damaged_file_is_renamed_and_said_once_and_the_others_are_sent(
    damage: Callable[[Path, random.Random], None],
    damaged: int,
    directory: Path,
    endpoint: str,
    collector: Collector,
    ship: Ship,
) -> None:
    data = [lines(5000, start=start) for start in (0, 5000)]
    paths = [left_behind_by(ship, endpoint, directory, text(each)) for each in data]
    damage(paths[damaged], random.Random(8))
    healthy, lost = data[1 - damaged], set(data[damaged])
    shipper = ship("-c", collector.endpoint, "--spool", str(directory), "--format", "raw")
    result = shipper.finish(b"own\n")
    assert result.status == 0
    path = str(paths[damaged])
    said = rf"zmqpush\.py: {path} is damaged \(.+\): it is kept as {path}\.damaged\n"
    assert re.fullmatch(said, stderr_of(result))
    received = collector.receive(result.processed)
    assert [line for line in received if line not in lost] == [*healthy, b"own"]
    assert received[-1] == b"own"
    assert names(directory) == [f"{paths[damaged].name}.damaged"]
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 0, "")


@pytest.mark.long
def test_of_a_damaged_file_is_sent_what_comes_before_the_damage(
    directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    expected = lines(50_000, size=99)
    path = left_behind_by(ship, endpoint, directory, text(expected))
    content = path.read_bytes()
    overwrite(path, b"noise", content.index(expected[40_000]))
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert result.status == 0
    assert re.fullmatch(
        r"zmqpush\.py: \S+ is damaged \(.+\): it is kept as \S+\n", stderr_of(result)
    )
    assert 0 < result.processed <= 40_000
    received = collector.receive(result.processed)
    assert received == expected[: len(received)]


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_link_to_a_spool_elsewhere(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    make_files(elsewhere, 2)
    path.symlink_to(max(elsewhere.glob("*.spool")))


@pytest.mark.parametrize(
    "make", [Path.mkdir, make_fifo, make_dangling_link, make_link_to_a_spool_elsewhere]
)
def test_what_is_no_file_is_left_alone(
    make: Callable[[Path], None], directory: Path, collector: Collector, ship: Ship
) -> None:
    directory.mkdir()
    make(directory / "x.spool")
    shipper = ship("-c", collector.endpoint, "--spool", str(directory), "--format", "raw")
    result = shipper.finish(b"own\n")
    assert (result.status, result.processed, stderr_of(result)) == (0, 1, "")
    assert collector.receive(1) == [b"own"]
    assert names(directory) == ["x.spool"]


@pytest.mark.parametrize("name", ["x", "x.spool.damaged", "x.spool.damaged-wal", ".spool.swp"])
def test_files_of_other_names_are_left_alone(
    name: str, directory: Path, collector: Collector, ship: Ship
) -> None:
    directory.mkdir()
    (directory / name).write_bytes(b"not ours")
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 0, "")
    assert (directory / name).read_bytes() == b"not ours"


def test_empty_file_is_removed(directory: Path, collector: Collector, ship: Ship) -> None:
    directory.mkdir()
    (directory / "x.spool").touch()
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 0, "")
    assert names(directory) == []


@pytest.mark.long
def test_damaged_file_whose_other_name_is_taken_does_not_stop_the_others(
    directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    damaged = left_behind_by(ship, endpoint, directory, b"damaged\n")
    left_behind_by(ship, endpoint, directory, b"healthy\n")
    overwrite(damaged, b"noise")
    Path(f"{damaged}.damaged", "in the way").mkdir(parents=True)
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, result.processed) == (0, 1)
    assert len(stderr_of(result).splitlines()) <= 2
    assert collector.receive(1) == [b"healthy"]


Mutation = Callable[[bytearray, random.Random], None]


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def scribble(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    end = min(len(data), at + chance.choice([1, 8, 100, 4096, 65_536]))
    data[at:end] = chance.randbytes(end - at)


def zero(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(0, len(data), 512)
    end = min(len(data), at + chance.choice([512, 4096, 65_536]))
    data[at:end] = bytes(end - at)


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 2, 30])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_in_the_head(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(min(len(data), 300))] ^= 1 << chance.randrange(8)


def misplace(data: bytearray, chance: random.Random) -> None:
    size = zmqpush.SpoolFile.PAGE_SIZE
    source, target = (chance.randrange(0, len(data), size) for _ in range(2))
    data[target : target + size] = data[source : source + size]


def append(data: bytearray, chance: random.Random) -> None:
    data += chance.randbytes(10_000)


MUTATIONS: list[Mutation] = [cut, scribble, zero, flip, flip_in_the_head, misplace, append]


class Leftover:
    """What a killed process has left behind, and ways to damage it."""

    def __init__(self, directory: Path) -> None:
        (path,) = directory.glob("*.spool")
        self._parts = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
        self.messages = set(messages_in(directory))
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint")
        self._parts["whole"] = path.read_bytes()

    def damage(self, directory: Path, chance: random.Random) -> str:
        """Write it there, damaged; returns what was done to it."""
        directory.mkdir()
        parts = {name: bytearray(self._parts[name]) for name in ("", "-wal")}
        done = []
        if chance.random() < 0.5:
            parts = {"": bytearray(self._parts["whole"])}
        elif chance.random() < 0.2:
            del parts["-wal"]
            done.append("no log")
        for _ in range(chance.choice([1, 1, 2])):
            mutate, name = chance.choice(MUTATIONS), chance.choice(list(parts))
            if parts[name]:
                mutate(parts[name], chance)
            done.append(f"{mutate.__name__} {name or 'database'}")
        for name, data in parts.items():
            (directory / f"1.spool{name}").write_bytes(data)
        return ", ".join(done)


@pytest.fixture
def leftover(directory: Path, endpoint: str, ship: Ship) -> Leftover:
    """A few hundred events in chunks of one line and of hundreds, some longer than a page."""
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    chance = random.Random(8)
    for number in range(60):
        size = chance.choice([5, 50, 50, 500, 20_000])
        shipper.write(text(lines(chance.choice([1, 3, 20]), size, start=1000 * number)))
        wait_until_drawn(shipper)
    wait_until_read(shipper)
    shipper.stop()
    return Leftover(directory)


HARMLESS = re.compile(
    r"(zmqpush\.py|\S+): \S+1\.spool( is damaged \(.+\): it is kept as \S+|: .+; it is left alone)"
)


@pytest.mark.long
def test_shipper_survives_whatever_was_done_to_a_file(
    leftover: Leftover, tmp_path: Path, collector: Collector, ship: Ship
) -> None:
    chance = random.Random(20)
    outcomes: Counter[str] = Counter()
    for trial in range(30):
        directory = tmp_path / str(trial)
        done = leftover.damage(directory, chance)
        shipper = start_draining(ship, collector.endpoint, directory)
        result = shipper.finish()
        said = stderr_of(result).splitlines()
        assert result.status == 0, (trial, done, said)
        assert all(map(HARMLESS.fullmatch, said)), (trial, done, said)
        assert len(said) <= 1, (trial, done, said)
        received = collector.receive(result.processed)
        assert set(received) <= leftover.messages, (trial, done)
        rest = [name for name in names(directory) if not name.startswith("1.spool.damaged")]
        assert not rest or said, (trial, done, rest)
        outcomes["damaged" if said else "sent"] += 1
    print(outcomes)
    assert len(outcomes) == 2


def make_spool(directory: Path) -> zmqpush.Spool:
    """A spool as in a process, but in this one and without a socket."""
    options = zmqpush.parse_options(zmqpush.build_parser(""), ["--format", "raw"])
    return zmqpush.Spool(str(directory), 0, zmqpush.EventFormat(options, 1), held=lambda: 5)


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
            spool.done(chunk, len(some))
        spool.close(delivered=True)
        return messages

    return asyncio.run(take_all())


@pytest.mark.long
def test_spool_survives_whatever_was_done_to_a_file(
    leftover: Leftover, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(1000)
    outcomes: Counter[str] = Counter()
    for trial in range(250):
        directory = tmp_path / str(trial)
        done = leftover.damage(directory, chance)
        messages = sent_from(directory)
        said = capfd.readouterr().err.splitlines()
        assert set(messages) <= leftover.messages, (trial, done)
        assert all(map(HARMLESS.fullmatch, said)), (trial, done, said)
        assert len(said) <= 1, (trial, done, said)
        outcomes[f"{'damaged' if said else 'sent'} {'all' if messages else 'none'}"] += 1
        shutil.rmtree(directory)
    print(outcomes)


def noise_over(directory: Path) -> None:
    for path in directory.iterdir():
        noise_over_all(path, random.Random(9))


def check_that_new_lines_arrive(shipper: Shipper, collector: Collector) -> None:
    """And end it; what it says may be that a file is damaged."""
    for number in range(3000):
        shipper.write(b"new %d\n" % number)
        if number % 100 == 0:
            wait_until_drawn(shipper)
    assert collector.receive(3000) == [b"new %d" % number for number in range(3000)]
    result = shipper.finish()
    assert result.status == 0
    damaged = r"(zmqpush\.py: \S+ is damaged \(.+\): it is kept as \S+\.damaged\n)?"
    assert re.fullmatch(damaged, stderr_of(result))


@pytest.mark.long
def test_noise_over_the_files_of_a_running_shipper_does_not_stop_new_lines(
    directory: Path, collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", collector.endpoint, "--spool", str(directory), "--format", "raw")
    for start in range(0, 30_000, 10_000):
        shipper.write(text(lines(10_000, size=99, start=start)))
        assert collector.receive(10_000) == lines(10_000, size=99, start=start)
        wait_until_asleep(shipper.pid)
        noise_over(directory)
    check_that_new_lines_arrive(shipper, collector)


@pytest.mark.long
def test_noise_over_what_waits_on_disk_does_not_stop_new_lines(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    before = lines(100_000, size=99)
    shipper.write(text(before))
    wait_until_read(shipper)
    noise_over(directory)
    shipper.write(text(before))
    wait_until_read(shipper)
    collector = collect(endpoint, RCVHWM=0)
    said = shipper.read_stderr_line()
    assert re.fullmatch(r"zmqpush\.py: \S+ is damaged \(.+\): it is kept as \S+\n", said)
    wait_until_asleep(shipper.pid)
    received = []
    while not collector.is_silent():
        received += collector.receive(1)
    assert received == before[: len(received)]
    assert names(directory) == [f"{Path(said.split()[1]).name}.damaged"]
    check_that_new_lines_arrive(shipper, collector)


@pytest.mark.long
@pytest.mark.parametrize("is_full", [False, True], ids=["", "full"])
def test_line_that_is_being_written_when_the_file_turns_out_damaged_is_kept(
    is_full: bool, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow, so that what waits is loaded, and damage is met, in the meantime."""
    really_append = zmqpush.SpoolFile.append
    full = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))] if is_full else []

    def append(file: zmqpush.SpoolFile, chunk: zmqpush.Finished) -> None:
        if full:
            raise full.pop()
        really_append(file, chunk)

    async def scenario() -> list[bytes]:
        spool = make_spool(directory)
        for start in range(0, 100_000, 1000):  # more than SQLite's cache holds
            await spool.put(text(lines(1000, size=99, start=start)))
        await spool.safe()
        noise_over(directory)
        own, written = spool._own, threading.Event()
        vars(own).update(sync=lambda: written.wait(DEADLINE_S))
        vars(spool).update(_sync_s=1.0)  # too slow to be waited for on the thread of the loop
        putting = asyncio.create_task(spool.put(b"new\n"))

        async def write_when_damage_was_met() -> None:
            while not own.closed:
                await asyncio.sleep(0.01)
            monkeypatch.setattr(zmqpush.SpoolFile, "append", append)
            written.set()

        writing = asyncio.create_task(write_when_damage_was_met())
        messages: list[bytes] = []
        while b"new" not in messages:
            chunk = await asyncio.wait_for(spool.get(), DEADLINE_S / 4)
            assert chunk
            messages += chunk.messages()
            spool.done(chunk, chunk.count())
        await asyncio.gather(putting, writing)
        return messages

    assert asyncio.run(scenario())[-1] == b"new"


def test_sync_that_fails_is_tried_until_it_succeeds(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zmqpush, "SPOOL_RETRY_S", 0.01)
    failures = [OSError(errno.EIO, os.strerror(errno.EIO))] * 3

    async def scenario() -> list[bytes]:
        spool = make_spool(directory)
        really_sync = spool._own.sync

        def sync() -> None:
            if failures:
                raise failures.pop()
            really_sync()

        vars(spool._own).update(sync=sync)
        await spool.put(text(lines(1000, size=99)))
        assert not failures
        await spool.end()
        messages: list[bytes] = []
        while chunk := await spool.get():
            messages += chunk.messages()
            spool.done(chunk, chunk.count())
        return messages

    assert asyncio.run(scenario()) == lines(1000, size=99)
    said = "cannot write to the spool: Input/output error; reading on when that is over"
    assert capfd.readouterr().err.endswith(f": {said}\n")


# ---- the directory goes -----------------------------------------------------------------------


def remove(directory: Path) -> None:
    shutil.rmtree(directory)


def rename(directory: Path) -> None:
    directory.rename(directory.with_name("renamed"))


def remove_files(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def remove_database_only(directory: Path) -> None:
    for path in directory.glob("*.spool"):
        path.unlink()


def empty_and_replace(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


GONE = pytest.mark.parametrize(
    "take_away", [remove, rename, remove_files, remove_database_only, empty_and_replace]
)


def moved(line: str, directory: Path) -> bool:
    said = r"zmqpush\.py: the spool was taken away; what it had to send is in (\S+) now\n"
    match = re.fullmatch(said, line)
    return bool(match and Path(match[1]).parent == directory)


@pytest.mark.long
@GONE
def test_what_waits_moves_to_a_new_file_when_the_old_one_was_taken_away(
    take_away: Callable[[Path], None],
    directory: Path,
    endpoint: str,
    collector: Collector,
    ship: Ship,
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    expected = lines(40_000, size=99)
    shipper.write(text(expected[:20_000]))
    wait_until_read(shipper)
    take_away(directory)
    shipper.write(text(expected[20_000:]))
    assert moved(shipper.read_stderr_line(), directory)
    wait_until_read(shipper)
    shipper.stop()
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 40_000, "")
    assert collector.receive(40_000) == expected
    assert collector.is_silent()
    assert not list(directory.glob("*.spool"))


@pytest.mark.long
@pytest.mark.parametrize("take_away", [remove, rename])
def test_directory_taken_away_again_and_again_costs_nothing_while_it_runs(
    take_away: Callable[[Path], None],
    directory: Path,
    endpoint: str,
    collect: Collect,
    ship: Ship,
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    expected = lines(20_000, size=99)
    for start in range(0, 20_000, 5000):
        shipper.write(text(expected[start : start + 5000]))
        if start:
            assert moved(shipper.read_stderr_line(), directory)
        wait_until_read(shipper)
        shutil.rmtree(directory.with_name("renamed"), ignore_errors=True)
        take_away(directory)
    assert collect(endpoint).receive(20_000) == expected
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 20_000, "")


@pytest.mark.long
@pytest.mark.parametrize("has_ended", [False, True], ids=["input-open", "input-ended"])
def test_what_waits_is_kept_where_the_directory_was_taken_away_and_no_line_came_since(
    has_ended: bool, directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    shipper.write(text(lines(5000)))
    wait_until_read(shipper)
    if has_ended:
        shipper.end_input()
        assert "the input has ended" in shipper.read_stderr_line()
    shutil.rmtree(directory)
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 0
    assert stderr_of(result).endswith(kept_in(directory, 5000))
    drained = start_draining(ship, collector.endpoint, directory).finish()
    assert drained.processed == 5000
    assert collector.receive(5000) == lines(5000)


@pytest.mark.long
def test_what_waits_is_given_up_where_the_directory_was_taken_away_and_there_is_no_other_place(
    directory: Path, endpoint: str, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    shipper.write(text(lines(5000)))
    wait_until_read(shipper)
    shutil.rmtree(directory)
    directory.touch()
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 1
    assert "gave up 5000 messages" in result.stderr
    assert kept_in(directory, 5000) not in result.stderr


@pytest.mark.long
def test_what_was_adopted_is_kept_where_the_directory_was_taken_away(
    directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    expected = lines(9000)
    leave_behind(ship, endpoint, directory, text(expected[:5000]), "--format", "raw")
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    shipper.write(text(expected[5000:7000]))
    wait_until_read(shipper)
    shutil.rmtree(directory)
    shipper.write(text(expected[7000:]))
    wait_until_read(shipper)
    shipper.stop()
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, stderr_of(result)) == (0, "")
    assert collector.receive(result.processed) == expected


@pytest.mark.long
def test_directory_whose_place_is_taken_holds_the_writer_back_until_it_is_free(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    expected = lines(50_000, size=99)
    shipper.write(text(expected[:10_000]))
    wait_until_read(shipper)
    shutil.rmtree(directory)
    directory.touch()
    with written_in_background(shipper, text(expected[10_000:])):
        said = shipper.read_stderr_line()
        assert re.fullmatch(
            r"zmqpush\.py: cannot write to the spool: .+; reading on when that is over\n", said
        )
        wait_until_held_back(shipper)
        directory.unlink()
        assert moved(shipper.read_stderr_line(), directory)
        assert collect(endpoint).receive(50_000) == expected
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 50_000, "")
    assert names(directory) == []


@pytest.mark.long
def test_directory_of_any_name_may_be_taken_away(
    tmp_path: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    directory = tmp_path / os.fsdecode(b"sp\xe9ol '\"?#%20")
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    shipper.write(b"one\n")
    wait_until_read(shipper)
    shutil.rmtree(directory)
    shipper.write(b"two\n")
    assert "what it had to send is in" in shipper.read_stderr_line()
    wait_until_read(shipper)
    shipper.stop()
    start_draining(ship, collector.endpoint, directory)
    assert collector.receive(2) == [b"one", b"two"]


# ---- limits -----------------------------------------------------------------------------------


@pytest.mark.long
def test_spool_limit_holds_the_writer_back_and_lets_it_go_on(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    options = ("--format", "raw", "--spool", str(directory), "--spool-limit", "1M")
    shipper = ship("-c", endpoint, *options)
    written = fill(shipper, 20_000_000)
    pipe, one_read = 2**20, 262_144
    assert 1_000_000 < written < 2**20 + pipe + one_read
    assert size_of(directory) < 5_000_000
    rest = b"x" * 98 + b"\n"
    with written_in_background(shipper, b"\n" + rest * 50_000):
        collector = collect(endpoint)
        whole, part = divmod(written, 100)
        received = collector.receive(whole + 1 + 50_000)
    assert received[:whole] == (lines(1000, size=99) * (whole // 1000 + 1))[:whole]
    assert len(received[whole]) == part
    assert set(received[whole + 1 :]) == {rest[:-1]}
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(received), "")
    assert names(directory) == []


@pytest.mark.long
def test_spool_limit_counts_what_was_left_behind(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    left = lines(30_000, size=99)
    leave_behind(ship, endpoint, directory, text(left), "--format", "raw")
    options = ("--format", "raw", "--spool", str(directory), "--spool-limit", "1M")
    shipper = ship("-c", endpoint, *options)
    own = lines(20_000, size=99, start=30_000)
    with written_in_background(shipper, text(own)):
        wait_until_held_back(shipper)
        assert collect(endpoint).receive(50_000) == left + own
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 50_000, "")


@pytest.mark.long
def test_signal_while_the_limit_holds_the_writer_back_keeps_what_is_in_the_pipe(
    directory: Path, endpoint: str, ship: Ship
) -> None:
    options = ("--format", "raw", "--spool", str(directory), "--spool-limit", "100k")
    shipper = ship("-c", endpoint, *options)
    written = fill(shipper, 20_000_000)
    assert written > 1_000_000
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 0
    assert stderr_of(result) == kept_in(directory, (written + 99) // 100)


@pytest.mark.long
@pytest.mark.parametrize("linger", ["0", "0.5"])
def test_linger_is_how_long_it_delivers_and_what_waits_then_is_kept(
    linger: str, directory: Path, endpoint: str, collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--linger", linger)
    shipper.write(text(lines(5000)))
    wait_until_read(shipper)
    begin = time.monotonic()
    result = shipper.finish()
    assert float(linger) <= time.monotonic() - begin < float(linger) + 1
    assert (result.status, result.processed) == (0, 0)
    assert stderr_of(result) == kept_in(directory, 5000)
    start_draining(ship, collector.endpoint, directory)
    assert collector.texts(5000) == [line.decode() for line in lines(5000)]


def test_nothing_is_said_at_the_end_where_nothing_waits(
    directory: Path, endpoint: str, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--linger", "0")
    result = shipper.finish(b"")
    assert (result.status, result.processed, stderr_of(result)) == (0, 0, "")
    assert names(directory) == []


# ---- what it tells ----------------------------------------------------------------------------


def counters(line: str, directory: Path) -> tuple[int, int, int, int]:
    """Messages read, handed over, waiting; bytes that wait."""
    said = re.fullmatch(
        r"zmqpush\.py: \d+\.\ds: (\d+) messages read, (\d+) handed over, (\d+) waiting "
        rf"\((\d+) bytes in {re.escape(str(directory))}\), \d connected\n",
        line,
    )
    assert said, line
    read, handed_over, waiting, size = map(int, said.groups())
    return read, handed_over, waiting, size


@pytest.mark.long
def test_sigusr1_tells_what_waits_in_the_directory_what_was_left_behind_included(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    leave_behind(ship, endpoint, directory, text(lines(2000)), "--format", "raw")
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    shipper.write(text(lines(3000)))
    wait_until_read(shipper)
    shipper.signal(signal.SIGUSR1)
    told = counters(shipper.read_stderr_line(), directory)
    assert told == (5000, 0, 5000, 5000 * 9)
    assert collect(endpoint).receive(5000) == lines(2000) + lines(3000)
    wait_until_asleep(shipper.pid)
    shipper.signal(signal.SIGUSR1)
    assert counters(shipper.read_stderr_line(), directory) == (5000, 5000, 0, 0)


def test_stats_tell_what_waits_in_the_directory(directory: Path, endpoint: str, ship: Ship) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--stats", "0.1")
    shipper.write(text(lines(700)))
    told = (0, 0, 0, 0)
    while told[2] < 700:
        told = counters(shipper.read_stderr_line(), directory)
        assert told[:3] in ((0, 0, 0), (700, 0, 700))
    assert told[3] > 700 * 9


# ---- several connections ----------------------------------------------------------------------


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
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, 20_000, "")
    assert names(directory) == []


@pytest.mark.long
def test_killed_it_repeats_no_more_than_the_connections_of_those_who_connect_may_hold(
    directory: Path, endpoint: str, collector: Collector, ship: Ship
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
            wait_until_drawn(shipper)
        poller = zmq.Poller()
        for puller in pullers:
            poller.register(puller, zmq.POLLIN)
        while len(received) < len(expected):
            ready = poller.poll(int(DEADLINE_S * 1000))
            assert ready, f"{len(received)} of {len(expected)} came"
            received += [strict_json(puller.recv())["message"].encode() for puller, _ in ready]
        wait_until_asleep(shipper.pid)
    finally:
        shipper.stop()
        context.destroy(linger=0)
    assert sorted(received) == expected
    empty = b'  {"message":"","type":"syslog","@pid":%d,"pad":"%b"}' % (shipper.pid, PAD.encode())
    least = 2 * held(sndhwm, len(empty))
    result = start_draining(ship, collector.endpoint, directory).finish()
    assert (result.status, stderr_of(result)) == (0, "")
    assert least <= result.processed < least + chunk
    again = [each.encode() for each in collector.texts(result.processed)]
    assert again == expected[len(expected) - len(again) :]


# ---- memory and disk --------------------------------------------------------------------------


def highest_memory(pid: int) -> int:
    """The most bytes of memory that were in use."""
    return int(proc_status(pid, "VmHWM").split()[0]) * 1024


@pytest.mark.long
def test_backlog_is_on_disk_and_not_in_memory(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    count, size = 150_000, 1000
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    for start in range(0, count, 1000):
        shipper.write(text(lines(1000, size=size - 1, start=start)))
    wait_until_read(shipper)
    assert size_of(directory) > count * size
    collector = collect(endpoint)
    for start in range(0, count, 1000):
        assert collector.receive(1000) == lines(1000, size=size - 1, start=start)
    assert highest_memory(shipper.pid) < 100e6
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, count, "")
    assert names(directory) == []


@pytest.mark.long
def test_disk_is_given_back_while_it_runs(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    expected = lines(90_000, size=999)
    shipper.write(text(expected))
    wait_until_read(shipper)
    assert size_of(directory) > 90e6
    collector = collect(endpoint)
    assert collector.receive(len(expected)) == expected
    wait_until(lambda: size_of(directory) < 45e6, "the disk is given back")
    shipper.write(b"last\n")
    assert collector.receive(1) == [b"last"]
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(expected) + 1, "")
    assert names(directory) == []


@pytest.mark.long
def test_signal_while_the_disk_is_given_back_leaves_nothing_behind(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    expected = lines(90_000, size=999)
    shipper.write(text(expected))
    wait_until_read(shipper)
    assert collect(endpoint).receive(len(expected)) == expected
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, len(expected), "")
    assert names(directory) == []


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_gigabyte_with_the_collector_away_for_the_first_half(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    count, size, block = 10_000_000, 100, 10_000
    pad = b" " * (size - 12)

    def numbered(start: int) -> list[bytes]:
        return [b"%011d%b" % (number, pad) for number in range(start, start + block)]

    shipper = ship("-c", endpoint, "--spool", str(directory), "--format", "raw")
    begin = time.monotonic()
    for start in range(0, count // 2, block):
        shipper.write(text(numbered(start)))
    wait_until_read(shipper)
    written_s = time.monotonic() - begin
    on_disk = size_of(directory)
    away_memory = highest_memory(shipper.pid)

    def write_the_rest() -> None:
        for start in range(count // 2, count, block):
            shipper.write(text(numbered(start)))

    writing = threading.Thread(target=write_the_rest)
    writing.start()
    collector = collect(endpoint)
    largest = on_disk
    for start in range(0, count, block):
        assert collector.receive(block) == numbered(start)
        largest = max(largest, size_of(directory))
    writing.join()
    took_s = time.monotonic() - begin
    print(
        f"{count * size / 1e9} GB: half of it on disk in {written_s:.1f} s, all delivered after "
        f"{took_s:.1f} s; at most {largest / 1e6:.0f} MB of disk, {away_memory / 1e6:.1f} MB of "
        f"memory while the collector was away, {highest_memory(shipper.pid) / 1e6:.1f} MB at most"
    )
    begin = time.monotonic()
    wait_until(lambda: size_of(directory) < 45e6, "the disk is given back", deadline_s=120)
    print(f"the disk was given back {time.monotonic() - begin:.1f} s later")
    highest = highest_memory(shipper.pid)
    result = shipper.finish()
    assert (result.status, result.processed, stderr_of(result)) == (0, count, "")
    assert names(directory) == []
    assert highest < 100e6


# ---- a file by itself -------------------------------------------------------------------------


def finished(*texts: bytes) -> zmqpush.Finished:
    return zmqpush.Finished(b"\n".join(texts), len(texts), 1)


def loaded(file: zmqpush.SpoolFile) -> list[tuple[int, list[bytes]]]:
    """All that it loads, by number."""
    found = []
    while chunks := file.load():
        found += [(chunk.number, chunk.messages()) for chunk in chunks]
    return found


def number_of_next(file: zmqpush.SpoolFile, *texts: bytes) -> int:
    """Append them as one chunk; returns its number."""
    chunk = finished(*texts)
    file.append(chunk)
    return chunk.number


def identity(file: zmqpush.SpoolFile) -> Any:
    return file._db.execute("SELECT id FROM shipper").fetchall()


def adopted(path: str) -> zmqpush.SpoolFile:
    file = zmqpush.SpoolFile.adopt(path)
    assert file
    return file


def test_number_is_never_used_again(directory: Path) -> None:
    file = zmqpush.SpoolFile.create(str(directory))
    assert [number_of_next(file, b"x") for _ in range(3)] == [1, 2, 3]
    file.forget(3)
    file.let_go()
    file = adopted(file.path)
    assert number_of_next(file, b"x") == 4
    file.let_go()


def test_file_keeps_its_id_and_two_files_have_different_ones(directory: Path) -> None:
    files = [zmqpush.SpoolFile.create(str(directory)) for _ in range(2)]
    before = [identity(file) for file in files]
    for file in files:
        file.let_go()
    assert [identity(adopted(file.path)) for file in files] == before
    assert before[0] != before[1]


@pytest.mark.long
def test_chunks_before_a_damaged_one_are_loaded_first(directory: Path) -> None:
    file = zmqpush.SpoolFile.create(str(directory))
    for line in lines(5):
        file.append(finished(line))
    file._db.execute("UPDATE chunk SET text = CAST('noise' AS BLOB) WHERE number = 4")
    assert [chunk.number for chunk in file.load()] == [1, 2, 3]
    with pytest.raises(sqlite3.DatabaseError, match="chunk 4"):
        file.load()
    file.let_go()


@pytest.mark.parametrize(
    "assignment",
    ["events = 2", "batch = 9", "events = NULL", "batch = 'x'", "text = NULL", "text = 7",
     "text = 'a' || char(10) || 'b' || char(10) || 'c'", "crc = 1.5", "events = 1e300"],
)  # fmt: skip
def test_chunk_that_is_not_as_it_was_written_is_never_sent(
    assignment: str, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = zmqpush.SpoolFile.create(str(directory))
    file.append(finished(b"before"))
    file.append(finished(b"a", b"b", b"c"))
    file._db.executescript(
        "PRAGMA writable_schema = ON;"
        "UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'chunk';"
    )
    file.let_go()
    with contextlib.closing(sqlite3.connect(file.path)) as database, database:
        database.execute(f"UPDATE chunk SET {assignment} WHERE number = 2")
    assert sent_from(directory) == [b"before"]
    assert capfd.readouterr().err.count(" is damaged (") == 1
    assert names(directory) == [f"{Path(file.path).name}.damaged"]


@pytest.mark.long
def test_file_that_moves_keeps_its_numbers_its_id_and_its_rows(directory: Path) -> None:
    file = zmqpush.SpoolFile.create(str(directory))
    for line in lines(5):
        file.append(finished(line, b""))
    file.forget(2)
    assert [chunk.number for chunk in file.load(until=3)] == [3]
    before, path = identity(file), file.path
    shutil.rmtree(directory)
    assert not file.is_in_place()
    file.move()
    assert file.is_in_place()
    assert file.path != path
    assert identity(file) == before
    assert number_of_next(file, b"new") == 6
    kept = [(4, [b"00000003", b""]), (5, [b"00000004", b""]), (6, [b"new"])]
    assert loaded(file) == kept
    file.let_go()
    again = adopted(file.path)
    assert identity(again) == before
    assert loaded(again) == [(3, [b"00000002", b""]), *kept]
    again.let_go()


@pytest.mark.long
def test_process_that_is_killed_while_it_removes_a_file_leaves_nothing_for_ever(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    removed: list[str] = []
    really_unlink = os.unlink

    def unlink(path: str) -> None:
        if removed:
            raise Killed
        removed.append(path)
        really_unlink(path)

    file = zmqpush.SpoolFile.create(str(directory))
    file.append(finished(b"x"))
    file.forget(1)
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(os, "unlink", unlink)
        file.close()
    if not file.closed:
        file.let_go()
    assert removed
    assert sent_from(directory) == []
    assert names(directory) == []


@pytest.mark.parametrize("name", ["noise", "ab", ""])
def test_file_whose_id_is_damaged_is_put_aside(
    name: str, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = zmqpush.SpoolFile.create(str(directory))
    file.append(finished(b"x"))
    file._db.execute("UPDATE shipper SET id = ?", (name,))
    file.let_go()
    assert sent_from(directory) == []
    assert capfd.readouterr().err.count(" is damaged (") == 1
    assert names(directory) == [f"{Path(file.path).name}.damaged"]


def test_file_is_held_by_one_at_a_time(directory: Path) -> None:
    file = zmqpush.SpoolFile.create(str(directory))
    assert zmqpush.SpoolFile.adopt(file.path) is None
    file.let_go()
    adopted(file.path).let_go()

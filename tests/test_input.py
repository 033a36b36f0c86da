"""Where lines come from: every kind of standard input is read to its end, and left as it was."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import pty
import random
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zmqpush
from tests.support.collector import Collector
from tests.support.proc import proc_status, wait_until_stopped
from tests.support.programs import TOP, Shipper
from tests.support.waiting import DEADLINE_S, wait_until

Ship = Callable[..., Shipper]

ZMQPUSH = f"{shlex.quote(sys.executable)} {shlex.quote(str(TOP / 'zmqpush.py'))}"
NOBODY = "tcp://127.0.0.1:9"  # discard: no collector is there
SUMMARY = re.compile(r"Processed (\d+) messages in \d+\.\d{4}ms\. Tagged with @pid:(\d+)\r?\n")


def numbers(count: int, start: int = 1) -> list[str]:
    """What `seq` prints."""
    return [str(number) for number in range(start, start + count)]


def in_lines(texts: list[str]) -> bytes:
    return "".join(text + "\n" for text in texts).encode()


def is_nonblocking(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK)


def waiting_in(descriptor: int) -> int:
    """Bytes that wait to be read."""
    held: tuple[int] = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))
    return held[0]


def has_signal(pid: int, field: str, number: signal.Signals) -> bool:
    """Whether a set of signals in /proc/PID/status, such as SigCgt or ShdPnd, has that one."""
    return bool(int(proc_status(pid, field), 16) >> (number - 1) & 1)


def wait_until_asleep(pid: int) -> None:
    """Wait until the main thread has slept for a while without waking up."""

    def slept() -> bool:
        before = proc_status(pid, "voluntary_ctxt_switches")
        time.sleep(0.15)
        after = proc_status(pid, "voluntary_ctxt_switches")
        return before == after and proc_status(pid, "State").startswith("S")

    wait_until(slept, "asleep")


# ---- in a shell -------------------------------------------------------------------------------


def program(endpoint: str) -> str:
    """The beginning of a script in which `zmqpush.py` is the program, connected to `endpoint`."""
    return f'zmqpush.py() {{ {ZMQPUSH} -c {endpoint} "$@"; }}; '


@contextlib.contextmanager
def shell_script(script: str, endpoint: str) -> Iterator[subprocess.Popen[str]]:
    """A `script` that calls `zmqpush.py` and runs as a group; what is left of it is killed."""
    shell = subprocess.Popen(
        ["bash", "-c", program(endpoint) + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield shell
    finally:
        if shell.returncode is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.communicate()


def in_shell(script: str, endpoint: str) -> subprocess.CompletedProcess[str]:
    """Run a `script` that calls `zmqpush.py`, connected to `endpoint`, to its end."""
    with shell_script(script, endpoint) as shell:
        stdout, stderr = shell.communicate(timeout=2.5 * DEADLINE_S)
    return subprocess.CompletedProcess(script, shell.returncode, stdout, stderr)


def test_echo_in_a_pipe_is_one_event(collector: Collector) -> None:
    result = in_shell("echo test | zmqpush.py", collector.endpoint)
    summary = SUMMARY.fullmatch(result.stdout)
    assert summary
    assert summary[1] == "1"
    assert (result.returncode, result.stderr) == (0, "")
    assert collector.events(1) == [{"message": "test", "type": "syslog", "@pid": int(summary[2])}]


def test_seq_in_a_pipe_is_a_hundred_events_of_that_type(collector: Collector) -> None:
    result = in_shell("seq 1 100 | zmqpush.py mytype", collector.endpoint)
    summary = SUMMARY.fullmatch(result.stdout)
    assert summary
    assert summary[1] == "100"
    assert (result.returncode, result.stderr) == (0, "")
    events = collector.events(100)
    assert [event["message"] for event in events] == numbers(100)
    assert {event["type"] for event in events} == {"mytype"}


def test_sigint_to_the_group_of_an_endless_loop_ends_it_with_the_summary(
    collector: Collector,
) -> None:
    script = "while true; do seq 1 100 && sleep 1; done | zmqpush.py"
    with shell_script(script, collector.endpoint) as shell:
        assert collector.texts(200) == numbers(100) * 2
        os.killpg(shell.pid, signal.SIGINT)
        assert shell.stdout
        stdout = shell.stdout.readline()
        # A shell that was just waiting for seq goes on with its loop, for ever.
        os.killpg(shell.pid, signal.SIGKILL)
        _, stderr = shell.communicate(timeout=DEADLINE_S)
    summary = SUMMARY.fullmatch(stdout)
    assert summary
    assert int(summary[1]) in (200, 300)  # the third hundred may have been on its way
    assert "zmqpush" not in stderr


# ---- FIFO -------------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_fifo_ends_when_its_last_writer_closes(
    fifo: Path, collector: Collector, ship: Ship
) -> None:
    keeper = os.open(fifo, os.O_RDWR)
    reader = os.open(fifo, os.O_RDONLY)
    writers = [os.open(fifo, os.O_WRONLY) for _ in range(2)]
    os.close(keeper)
    shipper = ship("-c", collector.endpoint, stdin=reader)
    os.close(reader)
    os.write(writers[0], b"one\n")
    os.close(writers[0])
    assert collector.texts(1) == ["one"]
    os.write(writers[1], b"two\n")
    assert collector.texts(1) == ["two"]
    assert shipper.process.poll() is None
    os.close(writers[1])
    result = shipper.finish()
    assert (result.status, result.processed) == (0, 2)


def test_fifo_opened_for_both_outlives_its_writers_until_sigint(
    fifo: Path, collector: Collector, ship: Ship
) -> None:
    descriptor = os.open(fifo, os.O_RDWR)  # the shell's <>
    shipper = ship("-c", collector.endpoint, stdin=descriptor)
    os.close(descriptor)
    for text in ("one", "two", "three"):
        fifo.write_text(text + "\n")
        assert collector.texts(1) == [text]
    wait_until_asleep(shipper.pid)
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 3, "")


def test_thousands_of_writers_of_one_fifo_are_all_read(
    fifo: Path, collector: Collector, ship: Ship
) -> None:
    descriptor = os.open(fifo, os.O_RDWR)
    shipper = ship("-c", collector.endpoint, "--format", "raw", stdin=descriptor)
    loop = f"for i in $(seq 3000); do echo $i >{shlex.quote(str(fifo))}; done"
    subprocess.run(["sh", "-c", loop], check=True, timeout=DEADLINE_S)
    assert collector.receive(3000) == in_lines(numbers(3000)).split()
    os.close(descriptor)
    shipper.signal(signal.SIGINT)
    assert shipper.finish().processed == 3000


# ---- a hang-up is not missed ------------------------------------------------------------------


@pytest.mark.long
def test_thirty_short_pipes_all_end(collector: Collector) -> None:
    loop = "for i in $(seq 30); do echo $i | zmqpush.py -q; done"
    result = in_shell(loop, collector.endpoint)
    assert (result.stdout, result.stderr) == ("", "")
    assert sorted(collector.texts(30), key=int) == numbers(30)


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
            reader = os.open(fifo, os.O_RDONLY)
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


# ---- file, /dev/null, closed ------------------------------------------------------------------


@pytest.mark.long
def test_every_line_of_a_file_arrives(tmp_path: Path, collector: Collector, ship: Ship) -> None:
    path = tmp_path / "lines"
    path.write_bytes(in_lines(numbers(100_000))[:-1])  # the last one without its line end
    with path.open() as stdin:
        shipper = ship("-c", collector.endpoint, "--format", "raw", stdin=stdin)
    assert collector.receive(100_000) == path.read_bytes().split()
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 100_000, "")


def test_file_is_read_from_where_it_stands(
    tmp_path: Path, collector: Collector, ship: Ship
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"read by somebody else\nours\n")
    with path.open("rb", buffering=0) as stdin:
        stdin.seek(len(b"read by somebody else\n"))
        shipper = ship("-c", collector.endpoint, stdin=stdin)
    assert collector.texts(1) == ["ours"]
    assert shipper.finish().processed == 1


@pytest.mark.long
def test_large_file_is_not_read_into_memory_while_nobody_takes_it(
    tmp_path: Path, collect: Callable[..., Collector], ship: Ship
) -> None:
    endpoint = f"ipc://{tmp_path}/pull"
    line = b"x" * 1999 + b"\n"
    count = 100_000  # 200 MB
    path = tmp_path / "lines"
    with path.open("w+b", buffering=0) as file:
        path.unlink()  # it goes when the last process has closed it
        for _ in range(count // 500):
            file.write(line * 500)
        file.seek(0)
        shipper = ship("-c", endpoint, "--format", "raw", stdin=file)
        wait_until(lambda: os.lseek(file.fileno(), 0, os.SEEK_CUR), "reading")
        wait_until_asleep(shipper.pid)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) < 16e6
    assert int(proc_status(shipper.pid, "VmHWM").split()[0]) < 80_000  # kB
    collector = collect(endpoint)
    for _ in range(9):
        assert set(collector.receive(count // 10)) == {line.strip()}
    assert int(proc_status(shipper.pid, "VmHWM").split()[0]) < 80_000
    collector.receive(count // 10)
    assert shipper.finish().processed == count


def test_dev_null_is_an_empty_input(collector: Collector, ship: Ship) -> None:
    result = ship("-c", collector.endpoint, stdin=subprocess.DEVNULL).finish()
    assert (result.status, result.processed, result.stderr) == (0, 0, "")


def test_empty_input_needs_no_collector(ship: Ship) -> None:
    result = ship("-c", NOBODY).finish(b"")
    assert (result.status, result.processed, result.stderr) == (0, 0, "")


def test_closed_input_is_an_empty_input(collector: Collector) -> None:
    result = in_shell("zmqpush.py <&-", collector.endpoint)
    summary = SUMMARY.fullmatch(result.stdout)
    assert summary
    assert summary[1] == "0"
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["<&- >&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_harm_nothing(closed: str, collector: Collector) -> None:
    result = in_shell(f"echo x | zmqpush.py {closed}", collector.endpoint)
    assert (result.returncode, result.stderr) == (0, "")
    if "<&-" not in closed:
        assert collector.texts(1) == ["x"]


def test_directory_is_refused(tmp_path: Path, ship: Ship) -> None:
    """Python itself refuses it, before a line of ours runs: so the status is not 2."""
    directory = os.open(tmp_path, os.O_RDONLY)
    result = ship("-c", NOBODY, stdin=directory).finish()
    os.close(directory)
    assert (result.status, result.stdout) == (1, "")
    assert "is a directory" in result.stderr
    assert "Traceback" not in result.stderr


def test_input_open_for_writing_only_is_refused(tmp_path: Path, ship: Ship) -> None:
    with (tmp_path / "log").open("w") as file:
        result = ship("-c", NOBODY, stdin=file).finish()
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr.startswith("zmqpush.py: cannot read standard input: it is open for writ")
    assert result.stderr.count("\n") == 1


# ---- socket -----------------------------------------------------------------------------------


def test_lines_of_a_socket_arrive_until_its_peer_ends_it(collector: Collector, ship: Ship) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        shipper = ship("-c", collector.endpoint, stdin=theirs)
        theirs.close()
        ours.sendall(b"one\ntwo\n")
        assert collector.texts(2) == ["one", "two"]
        ours.sendall(b"three")
        ours.shutdown(socket.SHUT_WR)
        assert collector.texts(1) == ["three"]
        result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 3, "")


def test_socket_that_has_hung_up_before_the_start_is_read_to_its_end(
    collector: Collector, ship: Ship
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(b"one\ntwo\n")
        shipper = ship("-c", collector.endpoint, stdin=theirs)
    assert collector.texts(2) == ["one", "two"]
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 2, "")


def test_connection_that_is_reset_ends_with_status_1_and_says_so(
    collector: Collector, ship: Ship
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours:
        with theirs:
            shipper = ship("-c", collector.endpoint, stdin=theirs)
        ours.sendall(b"one\n")
        assert collector.texts(1) == ["one"]
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    result = shipper.finish()
    assert (result.status, result.processed) == (1, 1)
    assert result.stderr == "zmqpush.py: cannot read standard input: Connection reset by peer\n"


@pytest.mark.parametrize("kind", ["packet-pipe", "seqpacket"])
def test_records_of_which_a_read_gives_only_one_are_all_read(
    kind: str, collector: Collector, ship: Ship
) -> None:
    """There a short read does not tell that nothing is left; no edge will tell of the rest."""
    if kind == "packet-pipe":
        theirs, ours = os.pipe2(os.O_DIRECT)
    else:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs, ours = (end.detach() for end in pair)
    shipper = ship("-c", collector.endpoint, stdin=theirs)
    os.close(theirs)
    os.write(ours, b"first\n")
    assert collector.texts(1) == ["first"]
    wait_until_asleep(shipper.pid)
    shipper.signal(signal.SIGSTOP)
    wait_until_stopped(shipper.pid)
    for text in numbers(10):
        os.write(ours, text.encode() + b"\n")
    shipper.signal(signal.SIGCONT)
    assert collector.texts(10, deadline_s=5) == numbers(10)
    os.close(ours)
    assert shipper.finish().processed == 11


# ---- terminal ---------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The two ends of a pseudo-terminal without echo: the user's, and the program's."""
    user, program = pty.openpty()
    attributes = termios.tcgetattr(program)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(program, termios.TCSANOW, attributes)
    yield user, program
    os.close(program)
    try:
        os.close(user)
    except OSError:  # the test has hung up
        return


CTRL_C, CTRL_D, CTRL_Z = b"\x03", b"\x04", b"\x1a"


def test_typed_lines_arrive_and_ctrl_d_ends(
    terminal: tuple[int, int], collector: Collector, ship: Ship
) -> None:
    user, program = terminal
    shipper = ship("-c", collector.endpoint, stdin=program)
    for text in ("one", "", "two"):
        os.write(user, text.encode() + b"\n")
        assert collector.texts(1) == [text]
        assert not is_nonblocking(program)
    os.write(user, b"three\nfour\nfi" + CTRL_D + b"ve" + CTRL_D + CTRL_D)
    assert collector.texts(3) == ["three", "four", "five"]
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 6, "")
    assert not is_nonblocking(program)


def test_lines_typed_before_the_start_arrive(
    terminal: tuple[int, int], collector: Collector, ship: Ship
) -> None:
    user, program = terminal
    os.write(user, b"one\ntwo\n" + CTRL_D)
    result = ship("-c", collector.endpoint, stdin=program).finish()
    assert collector.texts(2) == ["one", "two"]
    assert (result.status, result.processed, result.stderr) == (0, 2, "")


def test_hung_up_terminal_is_the_end_of_input(
    terminal: tuple[int, int], collector: Collector, ship: Ship
) -> None:
    user, program = terminal
    shipper = ship("-c", collector.endpoint, stdin=program)
    os.write(user, b"one\n")
    assert collector.texts(1) == ["one"]
    wait_until_asleep(shipper.pid)
    os.close(user)
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 1, "")


def test_terminal_that_has_hung_up_before_the_start_is_an_empty_input(
    terminal: tuple[int, int], collector: Collector, ship: Ship
) -> None:
    user, program = terminal
    os.close(user)
    result = ship("-c", collector.endpoint, stdin=program).finish()
    assert (result.status, result.processed, result.stderr) == (0, 0, "")


class Shell:
    """A shell with job control in a pseudo-terminal, as a user has it."""

    def __init__(self, user: int, program: int) -> None:
        self._user = user
        self._seen = ""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=program,
            stdout=program,
            stderr=program,
            env={**os.environ, "PS1": "ready$ ", "LC_ALL": "C", "HISTFILE": ""},
        )

    def type(self, keys: str | bytes) -> None:
        """Press these keys; a text is a command, ended by Enter."""
        os.write(self._user, keys.encode() + b"\n" if isinstance(keys, str) else keys)

    def expect(self, pattern: str) -> re.Match[str]:
        """Read what appears on the screen up to `pattern`."""
        ends_at = time.monotonic() + DEADLINE_S
        while not (match := re.search(pattern, self._seen)):
            left_s = ends_at - time.monotonic()
            assert left_s > 0, f"{pattern!r} is not in {self._seen!r}"
            if select.select([self._user], [], [], left_s)[0]:
                self._seen += os.read(self._user, 65_536).decode()
        self._seen = self._seen[match.end() :]
        return match

    def bring_back(self, pid: int) -> None:
        """`fg`, until the terminal belongs to that process again."""
        self.type("fg")
        self.expect(r"zmqpush.py -c .*\n")
        wait_until(lambda: os.tcgetpgrp(self._user) == os.getpgid(pid), "in the foreground")
        wait_until(lambda: not proc_status(pid, "State").startswith("T"), "going on")

    def end(self) -> None:
        """Kill it, and what it has left behind in its session."""
        if self.process.poll() is None:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and int(entry.name) != self.process.pid:
                    self._kill_if_mine(int(entry.name))
            self.process.kill()
            self.process.wait()

    def _kill_if_mine(self, pid: int) -> None:
        try:
            if os.getsid(pid) == self.process.pid:
                os.kill(pid, signal.SIGKILL)
        except OSError:  # it has ended by itself
            return


@pytest.fixture
def shell(terminal: tuple[int, int]) -> Iterator[Shell]:
    shell = Shell(*terminal)
    shell.expect(r"ready\$ ")
    yield shell
    shell.end()


def test_ctrl_z_stops_and_fg_goes_on(
    shell: Shell, terminal: tuple[int, int], collector: Collector
) -> None:
    _, program = terminal
    shell.type(f"{ZMQPUSH} -c {collector.endpoint}")
    shell.type("one")
    [event] = collector.events(1)
    assert event["message"] == "one"
    for text in ("two", "three"):
        shell.type(CTRL_Z)
        shell.expect(r"Stopped .*zmqpush.py")
        wait_until_stopped(event["@pid"])
        assert not is_nonblocking(program)
        shell.expect(r"ready\$ ")
        shell.bring_back(event["@pid"])
        shell.type(text)
        assert collector.texts(1) == [text]
    shell.type(CTRL_D)
    summary = shell.expect(SUMMARY.pattern)
    assert (summary[1], summary[2]) == ("3", str(event["@pid"]))
    shell.type("echo status $?")
    shell.expect("status 0")
    assert not is_nonblocking(program)


@pytest.fixture
def background(shell: Shell, fifo: Path, collector: Collector) -> int:
    """A shipper that has sent a line, is in the background, and was stopped for reading there.

    What was typed was for the shell, which has taken it: there is nothing to read any more.
    """
    shell.type(f"{ZMQPUSH} -c {collector.endpoint}")
    shell.type("one")
    [event] = collector.events(1)
    pid: int = event["@pid"]
    shell.type(CTRL_Z)
    shell.expect(r"Stopped .*zmqpush.py")
    shell.type("bg")
    shell.expect(r"zmqpush.py -c .* &\r\n")
    shell.type(f"cat {fifo}")  # the shell waits for that, and leaves to us what is typed
    writer = os.open(fifo, os.O_WRONLY)
    shell.type("echo for the shell")
    wait_until_stopped(pid)
    os.close(writer)
    shell.expect(r"Stopped .*zmqpush.py")  # the shell knows: else fg would not continue it
    shell.expect("for the shell\r\n")
    return pid


def test_fg_goes_on_after_it_was_in_the_background(
    background: int, shell: Shell, collector: Collector
) -> None:
    shell.bring_back(background)
    shell.type("two")
    assert collector.texts(1) == ["two"]
    shell.type(CTRL_D)
    assert shell.expect(SUMMARY.pattern)[1] == "2"


def test_ctrl_c_ends_it_after_it_was_in_the_background(background: int, shell: Shell) -> None:
    """It does not wait in a read for a line that the shell has taken."""
    shell.bring_back(background)
    wait_until_asleep(background)
    shell.type(CTRL_C)
    assert shell.expect(SUMMARY.pattern)[1] == "1"


def test_ctrl_c_ends_a_pipe_with_the_summary_and_the_shell_goes_on(
    shell: Shell, collector: Collector
) -> None:
    shell.type(f"while true; do seq 1 100 && sleep 1; done | {ZMQPUSH} -c {collector.endpoint}")
    assert collector.texts(100) == numbers(100)
    shell.type(CTRL_C)
    assert int(shell.expect(SUMMARY.pattern)[1]) in (100, 200)
    shell.expect(r"ready\$ ")
    shell.type("echo still here")
    shell.expect("still here\r\n")


def test_shipper_survives_the_hang_up_of_its_session_until_all_is_delivered(
    shell: Shell, terminal: tuple[int, int], tmp_path: Path, collect: Callable[..., Collector]
) -> None:
    user, _ = terminal
    endpoint = f"ipc://{tmp_path}/pull"
    shell.type(f"{ZMQPUSH} -c {endpoint} --stats 0.05")
    shell.type("one")
    shell.type("two")
    shell.expect("2 messages read")
    os.close(user)
    shell.process.wait(timeout=DEADLINE_S)
    assert collect(endpoint).texts(2) == ["one", "two"]


# ---- the flags of stdin -----------------------------------------------------------------------


def signalled(shipper: Shipper, number: signal.Signals) -> None:
    """Send a signal, and wait until it was taken."""
    wait_until(lambda: has_signal(shipper.pid, "SigCgt", number), "a signal handler")
    wait_until(lambda: not has_signal(shipper.pid, "SigBlk", number), "signals let in")
    shipper.signal(number)
    wait_until(lambda: not has_signal(shipper.pid, "ShdPnd", number), "the signal taken")


WAYS_OUT = {
    "end of input": ([], [], True, 0),
    "SIGINT": ([], [signal.SIGINT], False, 0),
    "SIGTERM": ([], [signal.SIGTERM], True, 0),
    "SIGINT twice": (["-c", NOBODY], [signal.SIGINT, signal.SIGINT], False, 1),
    "SIGTERM twice": (["-c", NOBODY], [signal.SIGTERM, signal.SIGTERM], False, 1),
    "SIGTERM, SIGINT": (["-c", NOBODY], [signal.SIGTERM, signal.SIGINT], False, 1),
    "given up": (["-c", NOBODY, "--linger", "0"], [], True, 1),
    "usage": (["--no-such-option"], [], False, 2),
}


@pytest.mark.parametrize("before", [0, os.O_NONBLOCK], ids=["blocking", "nonblocking"])
@pytest.mark.parametrize("way_out", WAYS_OUT)
def test_flags_are_put_back_whatever_the_way_out(
    way_out: str, before: int, collector: Collector, ship: Ship
) -> None:
    arguments, signals, ends, status = WAYS_OUT[way_out]
    reader, writer = os.pipe()
    flags = fcntl.fcntl(reader, fcntl.F_GETFL) | before
    fcntl.fcntl(reader, fcntl.F_SETFL, flags)
    shipper = ship(*(arguments or ["-c", collector.endpoint]), stdin=reader)
    os.write(writer, b"x\n")
    if status != 2:
        wait_until(lambda: waiting_in(reader) == 0, "read")
        assert is_nonblocking(reader) or shipper.process.poll() is not None
    for number in signals:
        signalled(shipper, number)
    if ends:
        os.close(writer)
    result = shipper.finish()
    if not ends:
        os.close(writer)
    assert result.status == status, result.stderr
    assert fcntl.fcntl(reader, fcntl.F_GETFL) == flags
    os.close(reader)


def test_flags_are_put_back_when_the_input_cannot_be_read_any_more(
    collector: Collector, ship: Ship
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with theirs:
        shipper = ship("-c", collector.endpoint, stdin=theirs)
        ours.sendall(b"one\n")
        collector.receive(1)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ours.close()
        assert shipper.finish().status == 1
        assert not is_nonblocking(theirs.fileno())


def test_flags_are_put_back_where_progress_lacks_tqdm(
    tmp_path: Path, terminal: tuple[int, int], ship: Ship
) -> None:
    (tmp_path / "tqdm.py").write_text("raise ImportError('No module named tqdm')\n")
    reader, writer = os.pipe()
    flags = fcntl.fcntl(reader, fcntl.F_GETFL)
    shipper = ship(
        "--progress",
        "-c",
        NOBODY,
        stdin=reader,
        stderr=terminal[1],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert shipper.finish().status == 2
    os.close(writer)
    assert fcntl.fcntl(reader, fcntl.F_GETFL) == flags
    os.close(reader)


def test_standard_output_that_shares_the_input_gets_its_summary(
    collector: Collector, ship: Ship
) -> None:
    """On one socket for both, as inetd has it, O_NONBLOCK would be the output's as well."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            shipper = ship("-c", collector.endpoint, stdin=theirs, stdout=theirs)
        ours.sendall(b"one\n")
        ours.shutdown(socket.SHUT_WR)
        assert collector.texts(1) == ["one"]
        ours.settimeout(DEADLINE_S)
        summary = b"".join(iter(lambda: ours.recv(4096), b""))
    assert shipper.finish().status == 0
    assert SUMMARY.fullmatch(summary.decode())


def test_writer_that_blocks_on_a_full_pipe_is_let_go_on(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint, "--format", "raw")
    data = in_lines(numbers(100_000))
    writing = threading.Thread(target=shipper.write, args=(data,))
    writing.start()
    assert collector.receive(100_000) == data.split()
    writing.join()
    assert shipper.finish().processed == 100_000

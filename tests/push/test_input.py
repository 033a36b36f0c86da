"""Where lines come from: every kind of standard input is read to its end."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.push.inputs import in_lines, in_shell, numbers, reset, shell_script, summary_of, tcp_pair
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.net import NOBODY
from tests.support.proc import highest_memory, wait_until_asleep, wait_until_stopped
from tests.support.running import python_by
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

# ---- in a shell -------------------------------------------------------------------------------


def test_echo_in_a_pipe_is_one_event(collector: Collector) -> None:
    result = in_shell("echo test | zmqpush.py", collector.endpoint)
    count, pid = summary_of(result.stdout)
    assert count == 1
    assert (result.returncode, result.stderr) == (0, "")
    assert collector.events(1) == [{"message": "test", "type": "syslog", "@pid": pid}]


def test_seq_in_a_pipe_is_a_hundred_events_of_that_type(collector: Collector) -> None:
    result = in_shell("seq 1 100 | zmqpush.py mytype", collector.endpoint)
    count, _ = summary_of(result.stdout)
    assert count == 100
    assert (result.returncode, result.stderr) == (0, "")
    events = collector.events(100)
    assert [event["message"] for event in events] == numbers(100)
    assert {event["type"] for event in events} == {"mytype"}


@pytest.mark.long
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
    count, _ = summary_of(stdout)
    assert count in (200, 300)  # the third hundred may have been on its way
    assert "zmqpush" not in stderr


@pytest.mark.long
def test_thirty_short_pipes_all_end(collector: Collector) -> None:
    loop = "for i in $(seq 30); do echo $i | zmqpush.py -q; done"
    result = in_shell(loop, collector.endpoint)
    assert (result.stdout, result.stderr) == ("", "")
    assert sorted(collector.texts(30), key=int) == numbers(30)


# ---- FIFO -------------------------------------------------------------------------------------


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


@pytest.mark.long
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
    assert highest_memory(shipper.pid) < 80_000 * 1024
    collector = collect(endpoint)
    for _ in range(9):
        assert set(collector.receive(count // 10)) == {line.strip()}
    assert highest_memory(shipper.pid) < 80_000 * 1024
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
    count, _ = summary_of(result.stdout)
    assert count == 0
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
    ours, theirs = tcp_pair()
    with ours:
        with theirs:
            shipper = ship("-c", collector.endpoint, stdin=theirs)
        ours.sendall(b"one\n")
        assert collector.texts(1) == ["one"]
        reset(ours)
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


def test_an_error_that_is_not_the_end_is_told_and_reading_goes_on(
    collector: Collector, ship: Ship, tmp_path: Path
) -> None:
    """/dev/kmsg answers EPIPE once when it was overrun; here the kernel is made to."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    inject = ["-f", "-o", str(tmp_path / "log"), "-e", "inject=readv:error=EPIPE:when=2"]
    strace = python_by(tmp_path, shlex.join(["strace", *inject]))
    shipper = ship("-c", collector.endpoint, executable=strace)
    shipper.write(b"one\n")
    assert collector.texts(1) == ["one"]
    shipper.write(b"two\n")
    assert collector.texts(1) == ["two"]
    result = shipper.finish(b"three\n")
    assert collector.texts(1) == ["three"]
    assert result.stderr == (
        "zmqpush.py: standard input was overrun, and some of it is lost; reading on\n"
    )

"""rsyslog runs zmqpush.py, and what it logs arrives at a receiver that is not ours.

Both ends are real: rsyslogd logs to zmqpush.py with omprog, and a second rsyslogd collects with
imczmq. The first one also writes each line, after omprog has taken it, into a file: what a
program was given.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.collector import Collector, strict_json
from tests.support.rsyslog import TEMPLATE, Receiver, Rsyslogd, install_program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long

# The first description's. It can pass no arguments: they come through the environment.
LEGACY = """\
$ModLoad            omprog
$ActionOMProgBinary {program}
*.*                 :omprog:;RSYSLOG_SyslogProtocol23Format
"""
MODERN = """\
module(load="omprog")
action(type="omprog" binary="{program} --connect {endpoint} {arguments}"
       template="RSYSLOG_SyslogProtocol23Format" output="{output}" {parameters})
"""
STYLES = pytest.mark.parametrize("style", [LEGACY, MODERN], ids=["legacy", "modern"])
BOTH_KILL_MODES = pytest.mark.parametrize(
    "stop", [Rsyslogd.stop_unit, Rsyslogd.stop_unit_mixed], ids=["control-group", "mixed"]
)
RFC5424 = re.compile(
    r"<(?P<pri>\d+)>1 (?P<timestamp>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d))"
    r" (?P<host>\S+) (?P<app>\S+) (?P<procid>\S+) (?P<msgid>\S+) (?P<data>-) (?P<msg>.*)"
)
BURST = 3000  # messages: more than a pipe holds


class Logger(Rsyslogd):
    """A rsyslogd that runs zmqpush.py for every message, connected to `endpoint`."""

    def __init__(
        self,
        folder: Path,
        style: str,
        endpoint: str,
        *,
        arguments: str = "",
        parameters: str = "",
        before: str = "",
    ) -> None:
        folder.mkdir()
        self.output = folder / "output"
        self._given = folder / "given"
        action = style.format(
            program=install_program(folder),
            endpoint=endpoint,
            output=self.output,
            arguments=arguments,
            parameters=parameters,
        )
        witness = f'action(type="omfile" file="{self._given}" template="{TEMPLATE}")\n'
        super().__init__(folder, before + action + witness, ZMQPUSH_CONNECT=endpoint)

    def log_numbers(self, numbers: range) -> None:
        """Log a message for each number; returns when rsyslogd has taken them."""
        self.log(*(b"<13>unit: number %d" % number for number in numbers))

    def given(self) -> list[bytes]:
        """The lines that the program was given."""
        return self._given.read_bytes().split(b"\n")[:-1] if self._given.exists() else []

    def counters(self) -> str:
        """What zmqpush.py says on SIGUSR1."""
        before = len(self.output.read_bytes()) if self.output.exists() else 0
        os.kill(self.program(), signal.SIGUSR1)

        def answer() -> str:
            said = self.output.read_text()[before:] if self.output.exists() else ""
            return said if said.endswith("\n") else ""

        return str(wait_until(answer, "zmqpush.py tells its counters"))


def lines_of(events: list[bytes]) -> list[bytes]:
    """The syslog lines that the events carry."""
    return [strict_json(event)["message"].encode() for event in events]


def numbers_of(events: list[bytes]) -> list[int]:
    """The numbers that were logged, in the order in which they came."""
    return [int(event.partition(b" number ")[2].partition(b'"')[0]) for event in events]


def pids_of(events: list[bytes]) -> set[int]:
    """The shippers that have sent the events."""
    return {strict_json(event)["@pid"] for event in events}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver, not started yet."""
    receiver = Receiver(tmp_path / "receiver")
    yield receiver
    receiver.close()


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[Callable[..., Logger]]:
    """Makes rsyslogds that run zmqpush.py, and starts them; all is killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(style: str, receiver: Receiver | Collector, **settings: str) -> Logger:
            logger = Logger(tmp_path / "logger", style, receiver.endpoint, **settings)
            stack.callback(logger.close)
            logger.start()
            return logger

        yield start


# ---- what arrives -----------------------------------------------------------------------------


@STYLES
def test_every_facility_and_severity_arrives_as_an_rfc5424_line(
    style: str, logger: Callable[..., Logger], receiver: Receiver
) -> None:
    receiver.start()
    rsyslogd = logger(style, receiver)
    every_pri = range(24 * 8)
    rsyslogd.log(*(b"<%d>unit[7]: number %d" % (pri, pri) for pri in every_pri))
    events = receiver.wait_for(len(every_pri))
    assert {strict_json(event)["type"] for event in events} == {"syslog"}
    assert pids_of(events) == {rsyslogd.program()}
    assert lines_of(events) == rsyslogd.given()
    for pri, line in zip(every_pri, lines_of(events)):
        parts = RFC5424.fullmatch(line.decode())
        assert parts, line
        assert (parts["pri"], parts["app"], parts["procid"]) == (str(pri), "unit", "7")
        assert (parts["msgid"], parts["msg"]) == ("-", f" number {pri}")


def test_text_arrives_intact(logger: Callable[..., Logger], receiver: Receiver) -> None:
    texts = [
        b'say "hi" \\ and \\n',
        b"tab\tescape\x1b[0m bell\x07 delete\x7f",
        "é € 😀 line\u2028separator".encode(),
        b"not UTF-8: \xff\xc3( \xed\xa0\x80",
        b'{"message":"a line that is JSON"}',
        b"  blanks before and after  ",
        b"long " * 1500,
        b"",
    ]
    receiver.start()
    escapes_nothing = 'global(parser.escapeControlCharactersOnReceive="off")\n'
    rsyslogd = logger(MODERN, receiver, before=escapes_nothing)
    rsyslogd.log(*(b"<13>unit: " + text for text in texts))
    lines = lines_of(receiver.wait_for(len(texts)))
    given = [line.decode(errors="backslashreplace").encode() for line in rsyslogd.given()]
    assert lines == given
    for text, line in zip(texts, lines):
        assert line.endswith(text.decode(errors="backslashreplace").encode())


def test_arguments_reach_the_program(logger: Callable[..., Logger], receiver: Receiver) -> None:
    receiver.start()
    rsyslogd = logger(MODERN, receiver, arguments="mail --field site=north --field floor=2")
    rsyslogd.log(b"<22>unit: x")
    event = strict_json(receiver.wait_for(1)[0])
    assert (event["type"], event["site"], event["floor"]) == ("mail", "north", "2")


# ---- what is said -----------------------------------------------------------------------------


def test_stderr_and_the_summary_are_in_the_output_file(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    receiver.start()
    rsyslogd = logger(MODERN, receiver)
    rsyslogd.log_numbers(range(5))
    receiver.wait_for(5)
    assert "5 messages read, 5 handed over, 0 waiting" in rsyslogd.counters()
    pid = rsyslogd.program()
    rsyslogd.terminate()
    summary = rsyslogd.output.read_text().splitlines()[-1]
    assert re.fullmatch(rf"Processed 5 messages in [\d.]+ms\. Tagged with @pid:{pid}", summary)


def test_what_is_wrong_with_the_arguments_is_in_the_output_file(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    rsyslogd = logger(MODERN, receiver, arguments="--batch none")
    rsyslogd.log_numbers(range(1))
    wait_until(
        lambda: rsyslogd.output.exists() and rsyslogd.output.read_bytes().endswith(b"\n"),
        "a line in the output file",
    )
    assert rsyslogd.output.read_text().startswith("zmqpush.py: argument --batch: 'none' is not")


def test_log_rotation_ends_nothing(logger: Callable[..., Logger], receiver: Receiver) -> None:
    receiver.start()
    rsyslogd = logger(MODERN, receiver, parameters='hup.signal="HUP"')
    rsyslogd.log_numbers(range(100))
    receiver.wait_for(100)
    first = rsyslogd.counters()
    rotated = rsyslogd.output.rename(rsyslogd.folder / "output.1")
    rsyslogd.signal_rsyslogd(signal.SIGHUP)

    def counters_in_the_new_file() -> bool:
        os.kill(rsyslogd.program(), signal.SIGUSR1)
        return rsyslogd.output.exists()

    wait_until(counters_in_the_new_file, "rsyslogd has opened a new output file")
    rsyslogd.log_numbers(range(100, 200))
    events = receiver.wait_for(200)
    assert numbers_of(events) == list(range(200))
    assert pids_of(events) == {rsyslogd.program()}
    assert rotated.read_text().startswith(first)


# ---- the collector comes and goes -------------------------------------------------------------


def test_what_is_logged_while_the_collector_is_away_arrives_when_it_is_back(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    rsyslogd = logger(MODERN, receiver)
    rsyslogd.log_numbers(range(BURST))
    wait_until(lambda: len(rsyslogd.given()) == BURST, "rsyslogd is not held up")
    receiver.start()
    assert numbers_of(receiver.wait_for(BURST)) == list(range(BURST))

    receiver.kill()
    wait_until(lambda: "0 connected" in rsyslogd.counters(), "zmqpush.py has noticed")
    rsyslogd.log_numbers(range(BURST, 2 * BURST))
    wait_until(lambda: len(rsyslogd.given()) == 2 * BURST, "rsyslogd is not held up")
    receiver.start()
    events = receiver.wait_for(2 * BURST)
    assert numbers_of(events) == list(range(2 * BURST))
    assert pids_of(events) == {rsyslogd.program()}


def test_a_collector_that_comes_when_rsyslogd_is_gone_gets_everything(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    rsyslogd = logger(MODERN, receiver, parameters='closeTimeout="50"')
    rsyslogd.log_numbers(range(BURST))
    rsyslogd.terminate()
    assert "did not terminate within timeout" in rsyslogd.said()
    receiver.start()
    assert numbers_of(receiver.wait_for(BURST)) == list(range(BURST))
    rsyslogd.wait_for_programs()


# ---- rsyslog stops ----------------------------------------------------------------------------


def log_faster_than_it_is_read(rsyslogd: Logger, numbers: range) -> None:
    """Log while zmqpush.py stands still: its pipe is full, and the rest is in rsyslog's queue."""
    os.kill(rsyslogd.program(), signal.SIGSTOP)
    rsyslogd.log_numbers(numbers)


@BOTH_KILL_MODES
@STYLES
def test_stopping_loses_nothing_of_a_burst(
    style: str,
    stop: Callable[[Rsyslogd], None],
    logger: Callable[..., Logger],
    receiver: Receiver,
) -> None:
    receiver.start()
    rsyslogd = logger(style, receiver)
    rsyslogd.log_numbers(range(1))
    receiver.wait_for(1)
    log_faster_than_it_is_read(rsyslogd, range(1, BURST))
    assert len(rsyslogd.given()) < BURST
    os.kill(rsyslogd.program(), signal.SIGCONT)
    stop(rsyslogd)
    assert numbers_of(receiver.wait_for(BURST)) == list(range(BURST))


def test_sigterm_from_rsyslog_after_that_of_systemd_loses_nothing(
    logger: Callable[..., Logger], collect: Callable[..., Collector]
) -> None:
    """With signalOnClose, what is stopped as a unit is told twice: that is no impatience."""
    collector = collect(RCVHWM=1, RCVBUF=4096)
    rsyslogd = logger(MODERN, collector, arguments="--sndhwm 1", parameters='signalOnClose="on"')
    numbers = range(1500)
    text = b"x" * 3000  # all together more than the sockets hold
    rsyslogd.log(*(b"<13>unit: %b number %d" % (text, number) for number in numbers))
    wait_until(lambda: len(rsyslogd.given()) == len(numbers), "zmqpush.py has it all")
    assert " 0 waiting" not in rsyslogd.counters()
    pipe = os.readlink(f"/proc/{rsyslogd.program()}/fd/0")
    rsyslogd.signal_all(signal.SIGTERM)
    # It sends its SIGTERM, then closes the pipe, and does not end before the program.
    wait_until(lambda: not rsyslogd.holds_open(pipe), "rsyslogd has closed the pipe")
    assert numbers_of(collector.receive(len(numbers), 5)) == list(numbers)
    assert rsyslogd.wait() == 0


@BOTH_KILL_MODES
@STYLES
def test_restarting_in_the_middle_of_a_stream_loses_nothing_that_rsyslog_had_taken(
    style: str,
    stop: Callable[[Rsyslogd], None],
    logger: Callable[..., Logger],
    receiver: Receiver,
) -> None:
    receiver.start()
    rsyslogd = logger(style, receiver)
    group = 100  # messages logged at once: those that were under way at the stop are in doubt
    taken = 0

    def stream() -> None:
        nonlocal taken
        with contextlib.suppress(OSError):  # rsyslogd is gone
            for start in itertools.count(step=group):
                rsyslogd.log_numbers(range(start, start + group))
                taken += group

    streaming = threading.Thread(target=stream)
    streaming.start()
    receiver.wait_for(1000)
    first = rsyslogd.program()
    os.kill(first, signal.SIGSTOP)
    backlog = taken + BURST
    wait_until(lambda: taken >= backlog, "more is under way than the pipe holds")
    os.kill(first, signal.SIGCONT)
    stop(rsyslogd)
    streaming.join()
    before = numbers_of(receiver.wait_for(taken))
    assert before == list(range(len(before)))
    assert taken <= len(before) <= taken + group

    rsyslogd.start()
    rsyslogd.log_numbers(range(len(before), len(before) + 1000))
    events = receiver.wait_for(len(before) + 1000)
    assert numbers_of(events) == list(range(len(before) + 1000))
    assert pids_of(events) == {first, rsyslogd.program()}


def test_what_a_killed_rsyslogd_had_written_arrives(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    receiver.start()
    rsyslogd = logger(MODERN, receiver)
    rsyslogd.log_numbers(range(1))
    receiver.wait_for(1)
    log_faster_than_it_is_read(rsyslogd, range(1, 500))
    wait_until(lambda: len(rsyslogd.given()) == 500, "all of it is in the pipe")
    (program,) = rsyslogd.programs()
    rsyslogd.kill()
    os.kill(program, signal.SIGCONT)
    assert numbers_of(receiver.wait_for(500)) == list(range(500))
    rsyslogd.wait_for_programs()


# ---- rsyslog starts and ends programs ---------------------------------------------------------

SEVERAL_WORKERS = """\
main_queue(queue.workerThreads="4" queue.workerThreadMinimumMessages="100"
           queue.dequeueBatchSize="50" queue.timeoutWorkerThreadShutdown="{idle_ms}")
"""


def test_a_killed_program_is_started_again_and_the_stream_goes_on(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    receiver.start()
    rsyslogd = logger(MODERN, receiver)
    rsyslogd.log_numbers(range(100))
    receiver.wait_for(100)
    first = rsyslogd.program()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: first not in rsyslogd.programs(), "it is dead")
    rsyslogd.log_numbers(range(100, 200))
    events = receiver.wait_for(200)
    assert numbers_of(events) == list(range(200))
    assert pids_of(events) == {first, rsyslogd.program()}


def test_several_programs_at_once_lose_nothing_at_the_stop(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    receiver.start()
    rsyslogd = logger(MODERN, receiver, before=SEVERAL_WORKERS.format(idle_ms=60_000))
    rsyslogd.log_numbers(range(1))
    receiver.wait_for(1)
    first = rsyslogd.program()
    log_faster_than_it_is_read(rsyslogd, range(1, BURST))
    wait_until(
        lambda: len(rsyslogd.programs()) > 1 and all(map(minds_signals, rsyslogd.programs())),
        "other workers have started other programs",
    )
    os.kill(first, signal.SIGCONT)
    rsyslogd.stop_unit()
    events = receiver.wait_for(BURST)
    assert sorted(numbers_of(events)) == list(range(BURST))
    assert len(pids_of(events)) > 1


def minds_signals(pid: int) -> bool:
    """Whether it is a shipper that SIGTERM no longer just kills, as it does during the start."""
    if b"zmqpush.py" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        return False
    status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"^Sig(?:Blk|Cgt):\s(\w+)$", status, re.MULTILINE)
    return any(int(mask, 16) >> (signal.SIGTERM - 1) & 1 for mask in masks)


def test_programs_that_rsyslog_ends_when_they_are_idle_lose_nothing(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    receiver.start()
    rsyslogd = logger(MODERN, receiver, before=SEVERAL_WORKERS.format(idle_ms=50))
    rsyslogd.log_numbers(range(1))
    receiver.wait_for(1)
    first = rsyslogd.program()
    log_faster_than_it_is_read(rsyslogd, range(1, BURST))
    receiver.wait_for(2)  # which another program has sent, for the first one stands still
    os.kill(first, signal.SIGCONT)
    events = receiver.wait_for(BURST)
    assert sorted(numbers_of(events)) == list(range(BURST))
    wait_until(lambda: rsyslogd.programs() == [first], "the others have ended")
    others = pids_of(events) - {first}
    assert others

    def summaries() -> set[int]:
        said = rsyslogd.output.read_text() if rsyslogd.output.exists() else ""
        return set(map(int, re.findall(r"Processed .* @pid:(\d+)\n", said)))

    wait_until(lambda: others <= summaries(), "the others have ended well")

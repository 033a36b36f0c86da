"""Nothing is lost when rsyslog stops, is killed, or starts and ends programs as it likes.

Both ends are real: rsyslogd logs to zmqpush.py with omprog, and a second rsyslogd collects with
imczmq.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rsyslog.helpers import BURST, MODERN, STYLES, Logger, numbers_of
from tests.support.aliases import Collect
from tests.support.arrived import pids_of
from tests.support.proc import has_begun
from tests.support.rsyslog import Receiver, Rsyslogd
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long
BOTH_KILL_MODES = pytest.mark.parametrize(
    "stop", [Rsyslogd.stop_unit, Rsyslogd.stop_unit_mixed], ids=["control-group", "mixed"]
)


# ---- rsyslog stops ----------------------------------------------------------------------------


def start_both(
    logger: Callable[..., Logger], style: str, receiver: Receiver, **settings: str
) -> Logger:
    """Start the receiver and a rsyslogd, whose number 0 arrives: its program runs."""
    receiver.start()
    rsyslogd = logger(style, receiver, **settings)
    rsyslogd.log_numbers(range(1))
    receiver.wait_for(1)
    return rsyslogd


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
    rsyslogd = start_both(logger, style, receiver)
    log_faster_than_it_is_read(rsyslogd, range(1, BURST))
    assert len(rsyslogd.given()) < BURST
    os.kill(rsyslogd.program(), signal.SIGCONT)
    stop(rsyslogd)
    assert numbers_of(receiver.wait_for(BURST)) == list(range(BURST))


def test_sigterm_from_rsyslog_after_that_of_systemd_loses_nothing(
    logger: Callable[..., Logger], collect: Collect
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
    rsyslogd = start_both(logger, MODERN, receiver)
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
    rsyslogd = start_both(logger, MODERN, receiver, before=SEVERAL_WORKERS.format(idle_ms=60_000))
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
    return b"zmqpush.py" in Path(f"/proc/{pid}/cmdline").read_bytes() and has_begun(pid)


def test_programs_that_rsyslog_ends_when_they_are_idle_lose_nothing(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    rsyslogd = start_both(logger, MODERN, receiver, before=SEVERAL_WORKERS.format(idle_ms=50))
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

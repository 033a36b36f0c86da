"""With a real rsyslogd every message arrives once, or is kept by rsyslogd until it can."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

import pytest

from tests.omprog.helpers import BOTH_WAYS, DOT_EVERY_S, WITH_AND_WITHOUT_SPOOL
from tests.omprog.logger import OWN_QUEUE, Logger, numbers_of, summaries
from tests.support.aliases import Collect
from tests.support.arrived import pids_of
from tests.support.collector import Collector
from tests.support.rsyslog import Receiver
from tests.support.waiting import wait_until


@pytest.mark.long
@WITH_AND_WITHOUT_SPOOL
@BOTH_WAYS
def test_every_message_of_rsyslog_arrives_once(
    transactions: bool,
    spooled: bool,
    asking_logger: Callable[..., Logger],
    receiver: Receiver,
    spool: str,
) -> None:
    receiver.start()
    arguments = f"--spool {spool}" if spooled else ""
    rsyslogd = asking_logger(receiver.endpoint, arguments, transactions=transactions)
    for start in range(0, 3000, 1000):  # taken by rsyslogd in batches of many sizes
        rsyslogd.log_numbers(range(start, start + 1000))
    events = receiver.wait_for(3000)
    assert numbers_of(events) == list(range(3000))
    (pid,) = pids_of(events)
    rsyslogd.terminate()
    assert summaries(rsyslogd.output()) == {pid: 3000}
    assert "returned:" not in rsyslogd.reported()
    assert len(receiver.received()) == 3000


@pytest.mark.long
def test_rsyslogs_own_marks_are_known(
    asking_logger: Callable[..., Logger], collector: Collector
) -> None:
    rsyslogd = asking_logger(
        collector.endpoint,
        "--omprog-transactions --omprog-begin=((( --omprog-commit=)))",
        'useTransactions="on" beginTransactionMark="(((" commitTransactionMark=")))"',
    )
    rsyslogd.log_numbers(range(20))
    assert numbers_of(collector.receive(20)) == list(range(20))
    rsyslogd.terminate()
    assert collector.is_silent()
    assert set(summaries(rsyslogd.output()).values()) == {20}


@pytest.mark.long
@BOTH_WAYS
def test_rsyslog_keeps_what_waits_for_a_collector(
    transactions: bool, asking_logger: Callable[..., Logger], endpoint: str, collect: Collect
) -> None:
    """Its patience, confirmTimeout, ends while we wait, or would without the dots."""
    parameters = f'confirmTimeout="{DOT_EVERY_S * 1500:.0f}"'
    rsyslogd = asking_logger(endpoint, "", parameters, transactions=transactions)
    rsyslogd.log_numbers(range(200))
    pid = rsyslogd.program()
    time.sleep(DOT_EVERY_S * 1.75)
    assert rsyslogd.programs() == [pid]
    collector = collect(endpoint)
    assert numbers_of(collector.receive(200)) == list(range(200))
    rsyslogd.terminate()
    assert collector.is_silent()
    assert summaries(rsyslogd.output()) == {pid: 200}
    assert "did not respond" not in rsyslogd.reported()


@pytest.mark.long
@BOTH_WAYS
def test_rsyslog_repeats_what_could_not_be_written(
    transactions: bool,
    asking_logger: Callable[..., Logger],
    collector: Collector,
    spool: str,
) -> None:
    """A limit on the size of files (EFBIG) stands for a disk that takes no more."""
    rsyslogd = asking_logger(collector.endpoint, f"--spool {spool}", OWN_QUEUE, transactions)
    rsyslogd.log_numbers(range(100))
    assert numbers_of(collector.receive(100)) == list(range(100))
    pid = rsyslogd.program()
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, unlimited[1]))
    rsyslogd.log_numbers(range(100, 3000))
    refused = "returned: cannot write to the spool"
    wait_until(lambda: refused in rsyslogd.reported(), "it was refused")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    assert numbers_of(collector.receive(2900)) == list(range(100, 3000))
    rsyslogd.terminate()
    assert collector.is_silent()
    assert summaries(rsyslogd.output()) == {pid: 3000}


SEVERAL_WORKERS = f"""{OWN_QUEUE}
queue.workerThreads="4" queue.workerThreadMinimumMessages="100"
"""


@pytest.mark.long
@BOTH_WAYS
def test_several_programs_share_a_spool(
    transactions: bool, asking_logger: Callable[..., Logger], receiver: Receiver, spool: str
) -> None:
    """And those that rsyslog ends, because they are idle, leave nothing behind."""
    receiver.start()
    parameters = SEVERAL_WORKERS + 'queue.timeoutWorkerThreadShutdown="100"'
    rsyslogd = asking_logger(
        receiver.endpoint, f"--spool {spool}", parameters, transactions=transactions
    )
    rsyslogd.log_numbers(range(3000))
    events = receiver.wait_for(3000)
    assert sorted(numbers_of(events)) == list(range(3000))
    assert len(pids_of(events)) > 1
    wait_until(lambda: len(rsyslogd.programs()) <= 1, "the others have ended")
    rsyslogd.terminate()
    sent = summaries(rsyslogd.output())
    assert set(sent) >= pids_of(events)
    assert sum(sent.values()) == 3000
    assert os.listdir(spool) == []


@pytest.mark.long
@WITH_AND_WITHOUT_SPOOL
def test_programs_of_a_killed_rsyslogd_end(
    spooled: bool, asking_logger: Callable[..., Logger], collector: Collector, spool: str
) -> None:
    rsyslogd = asking_logger(collector.endpoint, f"--spool {spool}" if spooled else "")
    rsyslogd.log_numbers(range(100))
    events = collector.receive(100)
    rsyslogd.kill()
    rsyslogd.wait_for_programs()
    assert numbers_of(events) == list(range(100))
    assert collector.is_silent()
    assert not spooled or os.listdir(spool) == []

"""Every end is clean: of rsyslog, of the input, by a signal; what was answered is kept."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.omprog.helpers import (
    BEGIN,
    COMMIT,
    DOT_EVERY_S,
    WITH_AND_WITHOUT_SPOOL,
    Dialogue,
    numbered,
    processed,
    sent_by_the_next_start,
    texts,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


ENDS_AFTER_SIGNAL_S = 4.0  # it is 2.5; rsyslogd and systemd have more patience


def test_closed_stdout_is_a_clean_end(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint)
    assert rsyslog.ask(b"heard") == "OK"
    rsyslog.close_stdout()
    rsyslog.tell(b"not heard\n")
    rsyslog.shipper.process.wait(DEADLINE_S)  # though its input goes on
    assert processed(rsyslog.finish()) == 2
    assert collector.texts(2) == ["heard", "not heard"]


@pytest.mark.long
@WITH_AND_WITHOUT_SPOOL
def test_rsyslogs_death_while_nothing_waits_is_a_clean_end(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, *["--spool", spool] * spooled)
    assert rsyslog.ask_all(numbered(5)) == {"OK"}
    rsyslog.hang_up()
    assert processed(rsyslog.finish()) == 5
    assert collector.texts(5) == texts(numbered(5))


@pytest.mark.long
def test_rsyslogs_death_while_a_message_waits_for_a_collector_is_a_clean_end(
    dialogue: Callable[..., Dialogue], endpoint: str
) -> None:
    """rsyslog has the message, and gives it to the next program: we need not wait with it."""
    rsyslog = dialogue("--connect", endpoint)
    rsyslog.tell(b"x\n")
    rsyslog.wait_until_read()
    rsyslog.hang_up()
    # That nobody listens any more it may not know before it has a dot to write.
    assert processed(rsyslog.finish(DOT_EVERY_S + 2)) == 0


def test_message_that_waits_when_the_input_ends_is_answered_when_a_collector_comes(
    dialogue: Callable[..., Dialogue], endpoint: str, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", endpoint)
    rsyslog.tell(b"x\n")
    rsyslog.wait_until_read()
    rsyslog.shipper.end_input()
    assert rsyslog.says_nothing()
    collector = collect(endpoint)
    assert rsyslog.answer().lstrip(".") == "OK"
    assert collector.texts(1) == ["x"]
    assert processed(rsyslog.finish()) == 1


@WITH_AND_WITHOUT_SPOOL
def test_message_without_its_end_was_not_answered_and_is_not_sent(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, *["--spool", spool] * spooled)
    assert rsyslog.ask(b"whole") == "OK"
    rsyslog.tell(b"a line\nand a half")
    rsyslog.wait_until_read()
    assert processed(rsyslog.finish()) == 1
    assert collector.texts(1) == ["whole"]
    assert collector.is_silent()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_while_a_message_waits_for_a_collector_ends_it_in_time(
    number: signal.Signals, dialogue: Callable[..., Dialogue], endpoint: str
) -> None:
    rsyslog = dialogue("--connect", endpoint)
    rsyslog.tell(b"x\n")
    rsyslog.wait_until_read()
    rsyslog.shipper.signal(number)
    rsyslog.shipper.process.wait(ENDS_AFTER_SIGNAL_S)  # though its input goes on
    assert processed(rsyslog.finish()) == 0  # and nothing was given up: rsyslog has it


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_between_messages_ends_it_in_time(
    number: signal.Signals, dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint)
    assert rsyslog.ask(b"x") == "OK"
    rsyslog.shipper.signal(number)
    rsyslog.shipper.process.wait(ENDS_AFTER_SIGNAL_S)
    assert processed(rsyslog.finish()) == 1
    assert collector.texts(1) == ["x"]


@pytest.mark.long
@WITH_AND_WITHOUT_SPOOL
def test_after_sigterm_rsyslog_is_answered_until_it_is_done(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    """A service manager stops rsyslogd and us together, and rsyslogd still drains its queue."""
    arguments = ["--connect", collector.endpoint, "--omprog-transactions"]
    rsyslog = dialogue(*arguments, *["--spool", spool] * spooled)
    messages = numbered(9)
    rsyslog.begin(messages[:3])
    rsyslog.shipper.signal(signal.SIGTERM)
    assert rsyslog.ask_all(messages[3:6]) == {"DEFER_COMMIT"}
    assert rsyslog.ask_all([COMMIT, BEGIN]) == {"OK"}
    assert rsyslog.ask_all(messages[6:]) == {"DEFER_COMMIT"}
    assert processed(rsyslog.finish(1.5)) == 9  # the end of input is the end
    assert collector.texts(9) == texts(messages)


def test_signal_in_a_transaction_keeps_it_in_the_spool_for_the_next_start(
    dialogue: Callable[..., Dialogue], endpoint: str, spool: str, ship: Ship, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", endpoint, "--spool", spool, "--omprog-transactions")
    messages = numbered(5)
    rsyslog.begin(messages)
    rsyslog.shipper.signal(signal.SIGTERM)
    result = rsyslog.finish(2)
    assert result.status == 0
    assert "5 messages wait in" in result.stderr
    assert sent_by_the_next_start(ship, collect, endpoint, spool, 5) == texts(messages)

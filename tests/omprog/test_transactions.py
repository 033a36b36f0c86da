"""Lines of a transaction are ours when they are answered, whatever becomes of the transaction."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.omprog.helpers import (
    BEGIN,
    COMMIT,
    WITH_AND_WITHOUT_SPOOL,
    Dialogue,
    numbered,
    processed,
    sent_by_the_next_start,
    texts,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version


@pytest.mark.long
@WITH_AND_WITHOUT_SPOOL
def test_transaction_has_the_answers_that_rsyslog_expects(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    arguments = ["--connect", collector.endpoint, "--omprog-transactions"]
    rsyslog = dialogue(*arguments, *["--spool", spool] * spooled)
    for start in (0, 10):
        messages = numbered(10, start)
        rsyslog.begin(messages)
        assert rsyslog.ask(COMMIT) == "OK"
        assert collector.texts(10) == texts(messages)
    assert rsyslog.ask_all([BEGIN, COMMIT]) == {"OK"}  # an empty one
    assert collector.is_silent()
    assert processed(rsyslog.finish()) == 20


def test_marks_are_messages_where_transactions_are_not_used(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint)
    assert rsyslog.ask_all([BEGIN, b"x", COMMIT]) == {"OK"}
    assert collector.texts(3) == [BEGIN.decode(), "x", COMMIT.decode()]
    assert processed(rsyslog.finish()) == 3


def test_only_a_mark_and_nothing_else_is_a_mark(
    dialogue: Callable[..., Dialogue], collector: Collector
) -> None:
    rsyslog = dialogue("--connect", collector.endpoint, "--omprog-transactions")
    messages = [
        BEGIN + b"\n" + COMMIT,
        b" " + COMMIT,
        COMMIT + b".",
        COMMIT.lower(),
        COMMIT + COMMIT,
    ]
    rsyslog.begin(messages)
    assert rsyslog.ask(COMMIT) == "OK"
    assert collector.texts(len(messages)) == texts(messages)
    assert processed(rsyslog.finish()) == len(messages)


def test_marks_can_be_others(dialogue: Callable[..., Dialogue], collector: Collector) -> None:
    marks = "--omprog-begin", "<< é", "--omprog-commit", ">>"
    rsyslog = dialogue("--connect", collector.endpoint, "--omprog-transactions", *marks)
    assert rsyslog.ask("<< é".encode()) == "OK"
    assert rsyslog.ask_all([BEGIN, b"x", COMMIT]) == {"DEFER_COMMIT"}
    assert rsyslog.ask(b">>") == "OK"
    assert collector.texts(3) == [BEGIN.decode(), "x", COMMIT.decode()]
    assert processed(rsyslog.finish()) == 3


def test_message_outside_of_a_transaction_is_answered_when_it_is_safe(
    dialogue: Callable[..., Dialogue], endpoint: str, spool: str, ship: Ship, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", endpoint, "--omprog-transactions", "--spool", spool)
    assert rsyslog.ask_all([b"before"]) == {"OK"}
    assert rsyslog.ask_all([BEGIN, COMMIT]) == {"OK"}
    assert rsyslog.ask_all([b"after"]) == {"OK"}
    rsyslog.kill()
    assert sent_by_the_next_start(ship, collect, endpoint, spool, 2) == ["before", "after"]


@WITH_AND_WITHOUT_SPOOL
def test_second_begin_drops_nothing_of_what_was_answered(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    """rsyslog begins anew when a line, or the commit, was refused."""
    arguments = ["--connect", collector.endpoint, "--omprog-transactions"]
    rsyslog = dialogue(*arguments, *["--spool", spool] * spooled)
    messages = numbered(9)
    for start in (0, 3, 6):
        rsyslog.begin(messages[start : start + 3])
    assert rsyslog.ask(COMMIT) == "OK"
    assert collector.texts(9) == texts(messages)
    assert processed(rsyslog.finish()) == 9


@WITH_AND_WITHOUT_SPOOL
def test_end_of_input_in_a_transaction_drops_nothing_of_what_was_answered(
    spooled: bool, dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    arguments = ["--connect", collector.endpoint, "--omprog-transactions"]
    rsyslog = dialogue(*arguments, *["--spool", spool] * spooled)
    messages = numbered(5)
    rsyslog.begin(messages)
    assert processed(rsyslog.finish()) == 5
    assert collector.texts(5) == texts(messages)


def test_end_of_input_in_a_transaction_keeps_it_in_the_spool_for_the_next_start(
    dialogue: Callable[..., Dialogue], endpoint: str, spool: str, ship: Ship, collect: Collect
) -> None:
    arguments = "--connect", endpoint, "--spool", spool, "--omprog-transactions", "--linger", "0"
    rsyslog = dialogue(*arguments)
    messages = numbered(5)
    rsyslog.begin(messages)
    result = rsyslog.finish()
    assert result.status == 0
    assert "5 messages wait in" in result.stderr
    assert sent_by_the_next_start(ship, collect, endpoint, spool, 5) == texts(messages)


@pytest.mark.long
def test_kill_in_a_transaction_drops_nothing_of_what_was_answered(
    dialogue: Callable[..., Dialogue], endpoint: str, spool: str, ship: Ship, collect: Collect
) -> None:
    """rsyslog 8.2302 does not send it again."""
    messages = numbered(20)
    for answered in (1, 2, 7):  # lines of a transaction before the kill
        rsyslog = dialogue("--connect", endpoint, "--spool", spool, "--omprog-transactions")
        rsyslog.begin(messages[:2])
        assert rsyslog.ask_all([COMMIT, BEGIN]) == {"OK"}
        assert rsyslog.ask_all(messages[2 : 2 + answered]) == {"DEFER_COMMIT"}
        rsyslog.kill()
        del messages[: 2 + answered]
    sent = sent_by_the_next_start(ship, collect, endpoint, spool, 16)
    assert sent == texts(numbered(16))


def test_commit_without_a_spool_is_answered_when_all_lines_were_taken(
    dialogue: Callable[..., Dialogue], endpoint: str, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", endpoint, "--omprog-transactions", "--sndhwm", "1")
    messages = numbered(50)
    rsyslog.begin(messages)
    rsyslog.tell(COMMIT + b"\n")
    assert rsyslog.says_nothing()
    collector = collect(endpoint)
    assert rsyslog.answer().lstrip(".") == "OK"
    rsyslog.kill()  # what libzmq has is lost with it: up to SNDHWM and the connection's buffers
    assert collector.texts(1) == texts(messages[:1])

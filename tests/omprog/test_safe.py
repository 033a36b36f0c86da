"""What is answered with OK is safe: a collector has it, or the disk."""

from __future__ import annotations

import itertools
import re
import shutil
import time
from collections.abc import Callable

import pytest

from tests.omprog.helpers import (
    BEGIN,
    BOTH_WAYS,
    COMMIT,
    DOT_EVERY_S,
    Dialogue,
    numbered,
    processed,
    sent_by_the_next_start,
    texts,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.tmpfs import Disk

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version


def test_no_ok_before_a_collector_has_come_but_dots(
    dialogue: Callable[..., Dialogue], endpoint: str, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", endpoint)
    asked_at = time.monotonic()
    rsyslog.tell(b"x\n")
    rsyslog.wait_for_dot()
    assert DOT_EVERY_S - 0.1 < time.monotonic() - asked_at < 2 * DOT_EVERY_S
    assert rsyslog.says_nothing()
    collector = collect(endpoint)
    assert re.fullmatch(r"\.+OK", rsyslog.answer())
    assert rsyslog.ask(b"y") == "OK"  # and no dot is left over
    assert collector.texts(2) == ["x", "y"]
    assert processed(rsyslog.finish()) == 2


def test_spool_is_safe_though_no_collector_is_there_and_a_kill_comes(
    dialogue: Callable[..., Dialogue], endpoint: str, spool: str, ship: Ship, collect: Collect
) -> None:
    rsyslog = dialogue("--connect", endpoint, "--spool", spool)
    messages = numbered(30)
    assert rsyslog.ask_all(messages) == {"OK"}
    rsyslog.kill()
    assert sent_by_the_next_start(ship, collect, endpoint, spool, 30) == texts(messages)


@pytest.mark.long
def test_spool_is_safe_when_a_kill_comes_as_soon_as_ok_was_said(
    dialogue: Callable[..., Dialogue], collector: Collector, spool: str, ship: Ship
) -> None:
    """With a collector at hand, the next start may send it again: libzmq does not tell."""
    arguments = "--connect", collector.endpoint, "--spool", spool
    messages = numbered(5)
    for message in messages:
        rsyslog = dialogue(*arguments)
        assert rsyslog.ask(message) == "OK"
        rsyslog.kill()
    result = ship(*arguments).finish(b"")
    assert (result.status, result.stderr) == (0, "")
    came = collector.texts(len(messages))
    while not collector.is_silent():
        came += collector.texts(1)
    assert set(came) == set(texts(messages))


def test_transaction_larger_than_the_spool_may_be_is_sent_before_its_end(
    dialogue: Callable[..., Dialogue], collector: Collector, spool: str
) -> None:
    arguments = ["--omprog-transactions", "--spool", spool, "--spool-limit", "1k"]
    rsyslog = dialogue("--connect", collector.endpoint, *arguments)
    messages = [b"%0100d" % number for number in range(50)]
    rsyslog.begin(messages)
    assert rsyslog.ask(COMMIT) == "OK"
    assert collector.texts(50) == texts(messages)


@pytest.mark.parametrize(
    "limit", [["--queue-limit", "1k", "--omprog-transactions"], ["--spool-limit", "1k"]]
)
def test_what_is_over_the_limit_is_answered_when_there_is_room(
    limit: list[str],
    dialogue: Callable[..., Dialogue],
    endpoint: str,
    spool: str,
    collect: Collect,
) -> None:
    spooled = ["--spool", spool] if "--spool-limit" in limit else []
    rsyslog = dialogue("--connect", endpoint, *limit, *spooled)
    answer = "OK"
    if not spooled:
        assert rsyslog.ask(BEGIN) == "OK"
        answer = "DEFER_COMMIT"
    messages = [b"%0100d" % number for number in range(50)]
    for asked in itertools.count(1):
        rsyslog.tell(messages[asked - 1] + b"\n")
        if rsyslog.says_nothing():
            break
        assert rsyslog.answer() == answer
    assert 1 < asked <= 11
    collector = collect(endpoint)
    assert rsyslog.answer().lstrip(".") == answer
    assert collector.texts(asked) == texts(messages[:asked])
    assert processed(rsyslog.finish()) == asked


@pytest.mark.long
@BOTH_WAYS
def test_full_disk_is_an_error_and_when_there_is_room_the_same_message_is_taken(
    transactions: bool,
    dialogue: Callable[..., Dialogue],
    endpoint: str,
    disk: Callable[[str], Disk],
    collect: Collect,
) -> None:
    small_disk = disk("size=12m")
    arguments = ["--connect", endpoint, "--spool", str(small_disk.directory)]
    arguments += ["--omprog-transactions"] * transactions
    rsyslog = dialogue(*arguments, **small_disk.inside)
    taken = "DEFER_COMMIT" if transactions else "OK"
    begin, commit = ([BEGIN], [COMMIT]) if transactions else ([], [])
    messages = numbered(9)
    assert rsyslog.ask_all(begin) <= {"OK"}
    assert rsyslog.ask_all(messages[:3]) == {taken}

    small_disk.fill_up()
    for _ in range(3):
        refusal = rsyslog.ask(messages[3]).lstrip(".")
        assert refusal not in ("", "OK", "DEFER_COMMIT", "PREVIOUS_COMMITTED")
        assert "No space left" in refusal
        assert rsyslog.ask_all(begin) <= {"OK"}  # rsyslog begins anew with what was refused
    assert rsyslog.shipper.process.poll() is None

    small_disk.make_room()
    assert rsyslog.ask_all(messages[3:]) == {taken}
    assert rsyslog.ask_all(commit) <= {"OK"}
    collector = collect(endpoint)
    assert collector.texts(9) == texts(messages)
    result = rsyslog.finish()
    assert collector.is_silent()
    assert result.status == 0
    assert "Traceback" not in result.stderr


@pytest.mark.long
@BOTH_WAYS
def test_ok_means_on_disk_and_in_place_even_if_the_directory_was_removed(
    transactions: bool,
    dialogue: Callable[..., Dialogue],
    endpoint: str,
    spool: str,
    ship: Ship,
    collect: Collect,
) -> None:
    arguments = ["--connect", endpoint, "--spool", spool]
    rsyslog = dialogue(*arguments, *["--omprog-transactions"] * transactions)
    taken = "DEFER_COMMIT" if transactions else "OK"
    begin, commit = ([BEGIN], [COMMIT]) if transactions else ([], [])
    messages = numbered(6)
    assert rsyslog.ask_all(begin) <= {"OK"}
    assert rsyslog.ask_all(messages[:3]) == {taken}
    shutil.rmtree(spool)
    assert rsyslog.ask_all(messages[3:]) == {taken}
    assert rsyslog.ask_all(commit) <= {"OK"}
    rsyslog.kill()
    assert sent_by_the_next_start(ship, collect, endpoint, spool, 6) == texts(messages)

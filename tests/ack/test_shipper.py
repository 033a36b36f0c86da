"""The shipper's end of the protocol, `zmqpush.py --ack`, against a collector that is not ours.

In some tests the program is a copy with less patience: tenths of a second.
"""

from __future__ import annotations

import contextlib
import random
import signal
from pathlib import Path

import pytest

from tests.ack.helpers import (
    PATIENCE_S,
    Feeder,
    as_input,
    check_all_safe,
    copy_with,
    send_chunks,
    texts,
)
from tests.support.ack import LINES, ONE, SAFE, Message, OurCollector, answer, header
from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.ending import kill, stop
from tests.support.net import free_endpoint
from tests.support.places import InSqlite
from tests.support.proc import wait_until_asleep
from tests.support.waiting import wait_until


def test_shipper_speaks_the_protocol_as_written_down(
    our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint, "app")
    shipper.write(b"one\ntwo\n")
    first = our_collector.receive_chunk()
    event = '{"message":"%s","type":"app","@pid":%d}'
    expected = "\n".join(event % (text, shipper.pid) for text in ("one", "two"))
    assert first == Message(first.peer, LINES, first.shipper, 1, 1, [expected.encode()])
    shipper.write(b"three\n")
    second = our_collector.receive_chunk()
    text = (event % ("three", shipper.pid)).encode()
    assert second == Message(first.peer, ONE, first.shipper, 2, 1, [text])
    our_collector.answer(first, 1)
    our_collector.answer(second, 2)
    wait_until_asleep(shipper.pid)
    shipper.write(b"four\n")
    third = our_collector.receive_chunk()
    assert (third.number, third.first) == (3, 3)
    our_collector.answer(third, 3)
    check_all_safe(shipper, 4)


def test_an_array_is_one_message_and_several_are_lines(
    our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint, "--batch", "2")
    shipper.write(b"1\n2\n")
    one = our_collector.receive_chunk()
    shipper.write(b"1\n2\n3\n")
    two = our_collector.receive_chunk()
    sizes = [[len(strict_json(line)) for line in m.texts[0].split(b"\n")] for m in (one, two)]
    assert [one.kind, two.kind] == [ONE, LINES]
    assert sizes == [[2], [2, 1]]


@pytest.mark.long
def test_shipper_waits_for_a_late_answer_which_is_good_for_all_before(
    our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint)
    *_, chunk = send_chunks(shipper, our_collector, b"1\n", b"2\n", b"3\n")
    shipper.end_input()
    assert shipper.read_stderr_line() == (
        "zmqpush.py: the input has ended; 3 messages wait for a collector at "
        f"{our_collector.endpoint}\n"
    )
    our_collector.answer(chunk, 2)
    wait_until_asleep(shipper.pid)
    assert shipper.process.poll() is None
    our_collector.answer(chunk, 3)
    check_all_safe(shipper, 3)


def test_answer_that_came_just_before_the_end_of_the_connection_counts(
    our_collector: OurCollector, ship: Ship
) -> None:
    """A collector may go when it has answered; and nobody else may come."""
    shipper = ship("--ack", "-c", our_collector.endpoint)
    shipper.write(b"1\n")
    chunk = our_collector.receive_chunk()
    shipper.end_input()
    assert "; 1 messages wait " in shipper.read_stderr_line()
    stop(shipper)
    our_collector.answer(chunk, 1)
    our_collector.close()
    shipper.signal(signal.SIGCONT)
    check_all_safe(shipper, 1)


@pytest.mark.long
def test_answers_that_say_less_or_too_much_do_no_harm(
    our_collector: OurCollector, ship: Ship
) -> None:
    """A number that was never sent makes safe what is under way, and nothing that comes later."""
    shipper = ship("--ack", "-c", our_collector.endpoint)
    shipper.write(b"1\n")
    chunk = our_collector.receive_chunk()
    for number in (0, 2**64 - 1, 1, 0):
        our_collector.answer(chunk, number)
    wait_until_asleep(shipper.pid)
    shipper.write(b"2\n")
    chunk = our_collector.receive_chunk()
    assert (chunk.number, chunk.first) == (2, 2)
    our_collector.answer(chunk, 1)
    shipper.end_input()
    assert "; 1 messages wait " in shipper.read_stderr_line()
    our_collector.answer(chunk, 2)
    check_all_safe(shipper, 2)


@pytest.mark.long
def test_nonsense_from_a_collector_is_said_once_and_ignored(
    our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint)
    shipper.write(b"1\n")
    chunk = our_collector.receive_chunk()
    good = answer(SAFE, chunk.shipper, 1)
    nonsense = [
        [b""],
        [b"", good],
        [good, b""],
        [good[:-1]],
        [answer(SAFE, chunk.shipper, 1, version=3)],
        [header(ONE, chunk.shipper, 1, 1), b"{}"],
        [random.Random(2120).randbytes(100_000)],
        [b"x"] * 1000,
    ]
    for frames in [*nonsense, *nonsense, [answer(SAFE, b"somebody else's.", 1)]]:
        our_collector.send(chunk, *frames)
    wait_until_asleep(shipper.pid)
    shipper.end_input()
    said = shipper.read_stderr_line()
    prefix = f"zmqpush.py: {our_collector.endpoint} does not speak the protocol of --ack: "
    assert said.startswith(prefix)
    assert "; 1 messages wait " in shipper.read_stderr_line()
    our_collector.answer(chunk, 1)
    check_all_safe(shipper, 1)


@pytest.mark.long
def test_more_goes_out_than_libzmq_takes_at_once(ship: Ship) -> None:
    """Without a polling loop, and without an answer that would wake the shipper."""
    with contextlib.closing(OurCollector(RCVHWM=1, RCVBUF=4096)) as collector:
        shipper = ship("--ack", "-c", collector.endpoint, "--sndhwm", "1", "--format", "raw")
        expected = texts(30, size=100_000)
        Feeder(shipper, as_input(expected))
        received: list[bytes] = []
        while len(received) < len(expected):
            received += collector.receive_chunk().texts[0].split(b"\n")
        assert [text.decode() for text in received] == expected


def test_shipper_ends_when_all_is_safe_whatever_has_not_gone_out(ship: Ship) -> None:
    """A collector may know what it has not read: from another collector, for one."""
    with contextlib.closing(OurCollector(RCVHWM=1, RCVBUF=4096)) as collector:
        shipper = ship("--ack", "-c", collector.endpoint, "--sndhwm", "1", "--format", "raw")
        Feeder(shipper, as_input(texts(200, size=100_000)))
        chunk = collector.receive_chunk()

        def has_ended() -> bool:
            collector.answer(chunk, 2**64 - 1)
            return shipper.process.poll() is not None

        wait_until(has_ended, "it has ended")
        assert shipper.finish().status == 0


@pytest.mark.long
def test_late_answer_is_asked_for_on_the_connection_that_stands(
    hasty: str, our_collector: OurCollector, ship: Ship
) -> None:
    """What was sent is not sent again there: TCP has lost nothing."""
    shipper = ship("--ack", "-c", our_collector.endpoint, program=hasty)
    *_, chunk = send_chunks(shipper, our_collector, b"1\n", b"2\n")
    question = our_collector.receive_question()
    assert (question.peer, question.shipper) == (chunk.peer, chunk.shipper)
    our_collector.answer(question, 1)
    question = our_collector.receive_question()
    assert question.peer == chunk.peer
    our_collector.answer(question, 2)
    assert our_collector.is_silent(4 * PATIENCE_S)
    check_all_safe(shipper, 2)


@pytest.mark.long
def test_silent_collector_is_left_and_what_is_not_safe_is_sent_again_when_it_is_asked_for(
    hasty: str, our_collector: OurCollector, ship: Ship
) -> None:
    """A new connection begins with a question: who cannot answer need not be given anything."""
    shipper = ship("--ack", "-c", our_collector.endpoint, program=hasty)
    sent = send_chunks(shipper, our_collector, b"1\n", b"2\n", b"3\n")
    our_collector.answer(sent[0], 1)
    for _ in range(3):  # the first one asks on the connection that stands
        question = our_collector.receive_question()
    assert question.peer != sent[0].peer
    assert question.shipper == sent[0].shipper
    our_collector.answer(question, 0)
    again = [our_collector.receive_chunk() for _ in range(2)]
    assert [(chunk.number, chunk.first) for chunk in again] == [(2, 2), (3, 2)]
    assert [chunk.texts for chunk in again] == [chunk.texts for chunk in sent[1:]]
    our_collector.answer(again[-1], 3)
    check_all_safe(shipper, 3)


@pytest.mark.long
def test_what_turns_out_to_be_safe_is_not_sent_again(
    hasty: str, our_collector: OurCollector, ship: Ship
) -> None:
    shipper = ship("--ack", "-c", our_collector.endpoint, program=hasty)
    *_, first = send_chunks(shipper, our_collector, b"1\n", b"2\n", b"3\n")
    while (question := our_collector.receive_question()).peer == first.peer:
        pass
    our_collector.answer(question, 2)
    chunk = our_collector.receive_chunk()
    assert (chunk.number, chunk.first) == (3, 3)
    our_collector.answer(chunk, 3)
    check_all_safe(shipper, 3)


# ---- rsyslog's dialogue -----------------------------------------------------------------------


def test_omprog_says_ok_when_it_is_acknowledged(
    tmp_path: Path, our_collector: OurCollector, ship: Ship
) -> None:
    program = copy_with(tmp_path, STILL_WORKING_S=0.2)
    shipper = ship("--ack", "--omprog", "-c", our_collector.endpoint, program=program)
    stdout = shipper.process.stdout
    assert stdout
    assert stdout.read(3) == b"OK\n"
    shipper.write(b"one\n")
    chunk = our_collector.receive_chunk()
    assert stdout.read(2) == b".."  # which say that it takes time
    our_collector.answer(chunk, 0)
    assert stdout.read(2) == b".."
    our_collector.answer(chunk, 1)
    assert stdout.readline().lstrip(b".") == b"OK\n"
    shipper.write(b"two\nlines\n")
    chunk = our_collector.receive_chunk()
    assert strict_json(chunk.texts[0])["message"] == "two\nlines"
    our_collector.answer(chunk, 2)
    assert stdout.readline().lstrip(b".") == b"OK\n"
    assert shipper.finish().status == 0


def test_transaction_is_committed_when_all_of_it_is_acknowledged(
    tmp_path: Path, our_collector: OurCollector, ship: Ship
) -> None:
    program = copy_with(tmp_path, STILL_WORKING_S=0.2)
    options = ("--ack", "--omprog", "--omprog-transactions")
    shipper = ship(*options, "-c", our_collector.endpoint, program=program)
    stdout = shipper.process.stdout
    assert stdout
    assert stdout.readline() == b"OK\n"
    shipper.write(b"BEGIN TRANSACTION\n")
    assert stdout.readline().lstrip(b".") == b"OK\n"
    for text in (b"one\n", b"two\n"):
        shipper.write(text)
        chunk = our_collector.receive_chunk()
        assert stdout.readline().lstrip(b".") == b"DEFER_COMMIT\n"
    shipper.write(b"COMMIT TRANSACTION\n")
    our_collector.answer(chunk, 1)
    assert stdout.read(2) == b".."
    our_collector.answer(chunk, 2)
    assert stdout.readline().lstrip(b".") == b"OK\n"
    assert shipper.finish().status == 0


def test_omprog_with_a_spool_says_ok_when_it_is_journaled(
    tmp_path: Path, pull_ack: Ship, ship: Ship
) -> None:
    """Nobody has to be there for that; and who comes gets it."""
    endpoint, spool = free_endpoint(), str(tmp_path / "spool")
    options = ("--ack", "-c", endpoint, "--spool", spool)
    shipper = ship(*options, "--omprog")
    stdout = shipper.process.stdout
    assert stdout
    assert stdout.readline() == b"OK\n"
    for text in (b"one\n", b"two\n"):
        shipper.write(text)
        assert stdout.readline() == b"OK\n"
    kill(shipper)
    place = InSqlite(tmp_path / "events.db")
    pull_ack(endpoint, *place.options)
    assert ship(*options).finish(b"").status == 0
    assert place.messages() == ["one", "two"]


# ---- the command line, of both ends -----------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "option", "why"),
    [
        ("zmqpush.py", "--bind", "--ack connects: it cannot be used with --bind"),
        ("zmqpull.py", "--connect", "--ack binds: it cannot be used with --connect"),
    ],
)
def test_each_end_has_its_way_to_connect(program: str, option: str, why: str, ship: Ship) -> None:
    result = ship("--ack", option, "tcp://127.0.0.1:9", program=program).finish(b"")
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == f"{program}: {why} (--help tells more)\n"

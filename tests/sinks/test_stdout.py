"""Standard output, a terminal, and pipes: somebody reads, or does not."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.sinks.helpers import check_sleeps
from tests.support.ack import ALICE, OurShippers
from tests.support.aliases import Ship
from tests.support.net import free_endpoint
from tests.support.proc import wait_until_acts_on, wait_until_asleep, wait_until_woken
from tests.support.pulling import LARGE, MEBIBYTE, Pull, Push, numbered, send, send_until_held_back
from tests.support.waiting import DEADLINE_S, wait_until
from zmqlines.ack import Offer
from zmqlines.sinks.file import Descriptor

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

GONE = "nobody reads the output any more"
GAVE_UP = re.compile(r"gave up at most (\d+) events .*libzmq.*")


@pytest.mark.parametrize("options", [[], ["-o", "-"], ["-o", "/dev/stdout"], ["-o", "/dev/fd/1"]])
def test_a_reader_that_has_enough_ends_it_and_what_did_not_come_out_is_told(
    options: list[str], pull: Pull, push: Push
) -> None:
    puller = pull(*options)
    sender = push(puller.endpoint)
    with subprocess.Popen(
        ["head", "-n", "3"], stdin=puller.process.stdout, stdout=subprocess.PIPE
    ) as head:
        try:
            assert puller.process.stdout
            puller.process.stdout.close()
            send(sender, numbered(3))
            assert head.communicate(timeout=DEADLINE_S)[0].split() == numbered(3)
        finally:
            head.kill()
    send(sender, numbered(1))
    assert puller.process.wait(DEADLINE_S) == 1
    gone, given_up, written = puller.said()
    assert (gone, written) == (GONE, "3 events written")
    assert GAVE_UP.fullmatch(given_up)[1] == "1"  # type: ignore[index]


def test_with_ack_the_shipper_still_has_what_did_not_come_out(
    our_shipper: OurShippers, pull_ack: Ship
) -> None:
    endpoint = free_endpoint()
    collector = pull_ack(endpoint)
    shipper = our_shipper(endpoint)
    shipper.ask(ALICE)
    assert shipper.answer() == (ALICE, 0)
    collector.process.stdout.close()  # type: ignore[union-attr]
    collector.process.stdout = None
    shipper.offer(ALICE, 1, 1, b"{}")
    result = collector.finish()
    said = f"zmqpull.py: {GONE}\nzmqpull.py: 0 events written\n"
    assert (result.status, result.stderr) == (0, said)
    assert not shipper.socket.poll(200), "it was not answered"


def test_output_named_by_a_dash_is_standard_output(pull: Pull, push: Push, tmp_path: Path) -> None:
    puller = pull("-o", "-", "-n", "1", cwd=tmp_path)
    push(puller.endpoint).send(b"{}")
    assert puller.read(1) == [b"{}"]
    assert puller.end() == ["1 events written"]
    assert not (tmp_path / "-").exists()


def test_a_file_that_was_standard_output_and_is_removed_holds_back(
    pull: Pull, push: Push, tmp_path: Path
) -> None:
    """Nobody could read it, and we do not know its name."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        puller = pull(stdout=file)
    sender = push(puller.endpoint)
    sender.send(b"{}")
    wait_until(lambda: path.read_bytes() == b"{}\n", "it is written")
    path.unlink()
    sender.send(b"{}")
    trouble = puller.wait_for_word("removed")
    assert trouble == "standard output: the file was removed; the senders have to wait"
    assert puller.counters()[0] == 1


def test_a_file_without_a_name_may_be_standard_output(pull: Pull, push: Push) -> None:
    with tempfile.TemporaryFile() as file:
        puller = pull("-n", "1", stdout=file)
        push(puller.endpoint).send(b"{}")
        assert puller.end() == ["1 events written"]
        file.seek(0)
        assert file.read() == b"{}\n"


# ---- a terminal -------------------------------------------------------------------------------


def test_a_terminal_that_hangs_up_ends_it(pull: Pull, push: Push) -> None:
    user, program = pty.openpty()
    try:
        puller = pull(stdout=program)
        sender = push(puller.endpoint)
        sender.send(b"{}")
        wait_until(lambda: puller.counters()[0] == 1, "it is shown")
    finally:
        os.close(user)
        os.close(program)
    sender.send(b"{}")
    assert puller.process.wait(DEADLINE_S) == 1
    assert puller.said()[-3:-1] == [GONE, *filter(GAVE_UP.fullmatch, puller.said())]


def test_a_terminal_that_has_hung_up_ends_it_at_sighup_where_nothing_comes(pull: Pull) -> None:
    user, program = pty.openpty()
    puller = pull(stdout=program)
    os.close(program)
    wait_until_acts_on(puller.pid, signal.SIGHUP)
    os.close(user)
    assert puller.end(signal.SIGHUP) == ["0 events written"]


def test_a_terminal_that_nobody_reads_holds_back_and_does_not_keep_it_from_ending(
    pull: Pull, push: Push
) -> None:
    """It takes a part of what is written to it, and a write of more than that would block."""
    user, program = pty.openpty()
    try:
        puller = pull(stdout=program)
        send_until_held_back(push(puller.endpoint, SNDHWM=10))
        begin = time.monotonic()
        puller.signal(signal.SIGTERM)
        assert puller.process.wait(DEADLINE_S) == 1
        assert time.monotonic() - begin < 5
    finally:
        os.close(user)
        os.close(program)
    assert GAVE_UP.fullmatch(puller.said()[0])


def test_a_terminal_is_shown_no_escape_sequences(pull: Pull, push: Push) -> None:
    """U+009B is ESC and a bracket in one character, which JSON lets pass (ECMA-48)."""
    event = '{"a":"\u009b31m \u0085 \x7f \u00e9 \u0101"}'
    user, program = pty.openpty()
    try:
        puller = pull(stdout=program)
        push(puller.endpoint).send(event.encode())
        shown = b""
        while not shown.endswith(b"\n"):
            assert select.select([user], [], [], DEADLINE_S)[0], "nothing is shown"
            shown += os.read(user, MEBIBYTE)
    finally:
        os.close(user)
        os.close(program)
    assert shown.decode() == '{"a":"\\u009b31m \\u0085 \\u007f \u00e9 \u0101"}\r\n'
    assert json.loads(shown) == json.loads(event)


def test_on_a_terminal_each_event_is_shown_at_once(pull: Pull, push: Push) -> None:
    user, program = pty.openpty()
    try:
        puller = pull(stdout=program)
        sender = push(puller.endpoint)
        for event in numbered(20):
            sender.send(event)
            shown = b""
            while not shown.endswith(b"\n"):
                assert select.select([user], [], [], DEADLINE_S)[0], "nothing is shown"
                shown += os.read(user, MEBIBYTE)
            assert shown == event + b"\r\n"
        assert puller.end(signal.SIGINT) == ["20 events written"]
    finally:
        os.close(user)
        os.close(program)


@pytest.mark.long
def test_a_stdout_that_nobody_reads_holds_the_senders_back_and_loses_nothing(
    pull: Pull, push: Push
) -> None:
    puller = pull()
    sender = push(puller.endpoint, SNDHWM=10)
    count = send_until_held_back(sender)
    assert puller.read(count) == numbered(count, size=LARGE)
    send(sender, numbered(1, count))
    assert puller.read(1) == numbered(1, count)
    assert puller.end(signal.SIGTERM) == [f"{count + 1} events written"]


@pytest.mark.long
def test_held_back_nothing_wakes_it_whatever_comes(pull: Pull, push: Push) -> None:
    puller = pull()
    sender = push(puller.endpoint)
    sender.send(b'{"a":"%b"}' % (b"x" * MEBIBYTE))
    wait_until(lambda: puller.counters()[2] == 1, "it has the event in hand")
    wait_until_asleep(puller.pid)
    sender.send(b"{}")  # this one it will not take, but be told of
    push(puller.endpoint).send(b"{}")
    check_sleeps(puller.pid)


@pytest.mark.long
def test_a_full_stdout_is_said_once_and_holds_back(pull: Pull, push: Push) -> None:
    with open("/dev/full", "wb") as full:
        puller = pull(stdout=full)
    push(puller.endpoint).send(b"{}")
    trouble = puller.wait_for_word("No space")
    assert trouble == "standard output: No space left on device; the senders have to wait"
    wait_until_asleep(puller.pid)
    wait_until_woken(puller.pid, 1)  # it has tried again
    wait_until_asleep(puller.pid)
    assert puller.said() == [trouble]
    assert puller.counters() == (0, 0, 1)


def test_pipe_may_have_any_descriptor(tmp_path: Path) -> None:
    """With thousands of connections it may have one that is too high for select()."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2000:
        pytest.skip("so many descriptors are not allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    reading, writing = os.pipe()
    try:
        sink = Descriptor(os.dup2(writing, 1999), "a pipe")
        asyncio.run(sink.write([b"{}"]))
        assert os.read(reading, 10) == b"{}\n"
    finally:
        for descriptor in (reading, writing, 1999):
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_pipe_needs_no_sync(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    sink = Descriptor(writing, "a pipe")
    offer = Offer(b"peer", ALICE, 1, 1, [b'{"n":1}'])
    assert asyncio.run(sink.keep([offer])) == {ALICE: 1}
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read() == b'{"n":1}\n'

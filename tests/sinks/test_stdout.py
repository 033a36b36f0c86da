"""Standard output, a terminal, and pipes: somebody reads, or does not."""

from __future__ import annotations

import asyncio
import os
import pty
import resource
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

import zmqpull
from tests.sinks.helpers import check_sleeps
from tests.support.ack import ALICE
from tests.support.proc import wait_until_asleep
from tests.support.pulling import LARGE, MEBIBYTE, Pull, Push, numbered, send, send_until_held_back
from tests.support.waiting import DEADLINE_S, wait_until
from zmqlines.ack import Offer
from zmqlines.sinks.file import Descriptor


def test_a_reader_that_has_enough_ends_it_quietly(pull: Pull, push: Push) -> None:
    puller = pull()
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
    assert puller.end() == ["3 events written"]


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
    time.sleep(1.2 * zmqpull.RETRY_S)
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

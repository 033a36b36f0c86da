"""The example session of docs/protocol.md is what the collector answers, octet for octet."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.docs.pages import block
from tests.docs.sandbox import ran, runs
from tests.support.net import free_endpoint
from tests.support.programs import TOP
from tests.support.waiting import DEADLINE_S

SESSION = block("docs/protocol.md", "Example session", language="session")


def messages(who: str) -> list[list[bytes]]:
    """The messages, each a list of frames, of "S", the shipper, or "C", the collector."""
    said = re.findall(rf"^{who}: (.*)$", SESSION.text, re.MULTILINE)
    return [[bytes.fromhex(frame) for frame in message.split("+")] for message in said]


@pytest.fixture
def dealer() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        yield dealer


@runs(SESSION)
def test_the_collector_answers_as_in_the_example(tmp_path: Path, dealer: zmq.Socket[bytes]) -> None:
    ran.append(SESSION.text)
    endpoint = free_endpoint()
    stored = tmp_path / "stored"
    command = [
        sys.executable,
        str(TOP / "zmqpull.py"),
        "--ack",
        "--memory-limit",
        "0",
        "-b",
        endpoint,
        "-o",
        str(stored),
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as collector:
        try:
            dealer.connect(endpoint)
            answers = []
            for message in messages("S"):
                dealer.send_multipart(message)
                assert dealer.poll(int(DEADLINE_S * 1000))
                answers.append(dealer.recv_multipart())
        finally:
            collector.terminate()
    assert answers == messages("C")
    assert stored.read_text() == "".join(f'{{"n":{n}}}\n' for n in (1, 2, 3, 4, 5, 9))


def test_the_frames_have_the_sizes_that_the_grammar_names() -> None:
    assert {len(message[0]) for message in messages("S")} == {44}
    assert {len(message[0]) for message in messages("C")} == {36}

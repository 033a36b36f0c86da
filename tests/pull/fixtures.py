"""Collectors of ours, and sockets that send to them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support.pulling import ANY_PORT, Pull, Puller, Push
from tests.support.waiting import DEADLINE_S


@pytest.fixture
def pull(tmp_path: Path) -> Iterator[Pull]:
    """Starts collectors, bound to a free port unless told otherwise; all are killed at the end."""
    with contextlib.ExitStack() as stack:
        serials = itertools.count()

        def start(*arguments: str, **popen: Any) -> Puller:
            if not {"-b", "--bind", "-c", "--connect"} & set(arguments):
                arguments = ("--bind", ANY_PORT, *arguments)
            puller = Puller(tmp_path / f"said-{next(serials)}", *arguments, **popen)
            stack.callback(puller.stop)
            if ANY_PORT in arguments:
                puller.endpoint = puller.wait_until_bound()
            return puller

        yield start


@pytest.fixture
def push() -> Iterator[Push]:
    """Makes PUSH sockets, connected to an endpoint; a send fails after the deadline."""
    context = zmq.Context()
    senders = []  # one that is forgotten would make the context wait for ever

    def connect(endpoint: str, **sockopts: int) -> zmq.Socket[bytes]:
        sender = context.socket(zmq.PUSH)
        senders.append(sender)
        for name, value in {"IPV6": 1, "SNDTIMEO": int(DEADLINE_S * 1000), **sockopts}.items():
            sender.setsockopt(getattr(zmq, name), value)
        sender.connect(endpoint)
        return sender

    yield connect
    context.destroy(linger=0)

"""Who may speak: the handler that libzmq asks about each key (ZAP, RFC 27)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import zmq

ENDPOINT = "inproc://zeromq.zap.01"
VERSION = b"1.0"
WELCOME, REFUSED, FAILED = b"200", b"400", b"500"  # statuses


def answer(question: list[bytes], lets_in: Callable[[bytes], bool]) -> list[bytes]:
    """The frames of the reply to those of a request; `lets_in` is asked about a key (32 bytes).

    Whatever is not a key of CURVE is not let in, and neither is what cannot be understood.
    """
    version, request, *others = [*question, b"", b""][: max(len(question), 2)]
    status, text = FAILED, b"not understood"
    if version == VERSION and len(others) >= 4:
        _, _, _, mechanism, *credentials = others
        status, text = REFUSED, b"refused"
        if mechanism == b"CURVE" and len(credentials) == 1 and lets_in(credentials[0]):
            status, text = WELCOME, b"welcome"
    return [VERSION, request, status, text, b"", b""]


class Gate:
    """The handler's socket, on the event loop. Where it is not open, nobody is let in.

    It belongs to one context, and that cannot end before the gate is closed.
    """

    def __init__(self, lets_in: Callable[[bytes], bool]) -> None:
        self._lets_in = lets_in
        self._rep: zmq.Socket[bytes] | None = None

    def open(self) -> None:
        """Before anything is bound: libzmq asks at once."""
        if self._rep:
            return
        self._rep = zmq.Context.instance().socket(zmq.REP)
        self._rep.bind(ENDPOINT)
        asyncio.get_running_loop().add_reader(self._rep.fileno(), self._answer_all)
        self._answer_all()

    def close(self) -> None:
        """Answer nobody any more."""
        if self._rep:
            asyncio.get_running_loop().remove_reader(self._rep.fileno())
            self._rep.close(0)
        self._rep = None

    def _answer_all(self) -> None:
        """The descriptor tells only of news: leave none behind."""
        with contextlib.suppress(zmq.Again):
            while self._rep:
                question = self._rep.recv_multipart(zmq.DONTWAIT)
                self._rep.send_multipart(answer(question, self._lets_in), zmq.DONTWAIT)

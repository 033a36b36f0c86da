"""A collector that is not ours: a PULL socket of pyzmq."""

from __future__ import annotations

import json
import time
from typing import Any

import zmq

from tests.support.waiting import DEADLINE_S


def strict_json(text: bytes) -> Any:
    """What JSON says, in UTF-8, without Python's NaN and Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text.decode("utf-8", "strict"), parse_constant=refuse)


class Collector:
    """A PULL socket of pyzmq in this process, bound to a free port unless told otherwise."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:*", **sockopts: int) -> None:
        self._context = zmq.Context()
        self._pull = self._context.socket(zmq.PULL)
        self._pull.setsockopt(zmq.IPV6, 1)
        for name, value in sockopts.items():
            self._pull.setsockopt(getattr(zmq, name), value)
        self._pull.bind(endpoint)
        self.endpoint = self._pull.get_string(zmq.LAST_ENDPOINT)

    def receive(self, count: int, deadline_s: float = DEADLINE_S) -> list[bytes]:
        """The next `count` messages, each of one frame."""
        messages: list[bytes] = []
        ends_at = time.monotonic() + deadline_s
        while len(messages) < count:
            left_ms = int((ends_at - time.monotonic()) * 1000)
            assert left_ms > 0, f"{len(messages)} of {count} messages came in {deadline_s} s"
            if self._pull.poll(left_ms):
                frames = self._pull.recv_multipart()
                assert len(frames) == 1, frames
                messages.append(frames[0])
        return messages

    def events(self, count: int, deadline_s: float = DEADLINE_S) -> list[dict[str, Any]]:
        """The next `count` messages, read as JSON by a strict parser."""
        return [strict_json(message) for message in self.receive(count, deadline_s)]

    def texts(self, count: int, deadline_s: float = DEADLINE_S) -> list[str]:
        """The `message` of the next `count` events."""
        return [event["message"] for event in self.events(count, deadline_s)]

    def is_silent(self, for_ms: int = 100) -> bool:
        """Whether nothing comes for so long."""
        return self._pull.poll(for_ms) == 0

    def close(self) -> None:
        self._context.destroy(linger=0)

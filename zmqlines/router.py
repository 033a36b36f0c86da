"""`zmqpull.py --ack`: the collector's end of acknowledged delivery, a ROUTER socket.

See docs/protocol.md.
"""

from __future__ import annotations

import asyncio
import contextlib

import zmq

from zmqlines.ack import ACK_REFUSAL, ACK_VERSION, Answer, Offer, OtherVersion
from zmqlines.pull import ENOUGH_BYTES, Pull

LAST_ANSWERS_MS = 500


class Router(Pull):
    """The ROUTER socket, which takes offers and answers them."""

    KIND = zmq.ROUTER
    FITTING = "zmqpush.py --ack"
    MISFITS = "zmqpush.py without --ack, another PUSH or PUB socket"

    def take_offers(self, most: int) -> list[Offer]:
        """The offers among up to `most` messages; what is none is said once, and ignored."""
        offers: list[Offer] = []
        size = 0
        with contextlib.suppress(zmq.Again):
            for _ in range(most):
                frames = self._pull.recv_multipart(zmq.DONTWAIT)
                size += sum(map(len, frames))
                try:
                    offers.append(Offer.read(frames))
                except OtherVersion as error:
                    self.say_once("version", f"a shipper does not fit: {error}")
                    self._send(frames[0], bytes([ACK_VERSION, ACK_REFUSAL]))
                except ValueError as error:
                    self.say_once(
                        "protocol", f"a peer does not speak the protocol of --ack: {error}"
                    )
                if size >= ENOUGH_BYTES:
                    break
        return offers

    def answer(self, peer: bytes, answer: Answer) -> None:
        """Tell it `peer`, if that is still there."""
        self._send(peer, answer.frame())

    def _send(self, peer: bytes, frame: bytes) -> None:
        with contextlib.suppress(zmq.Again):
            self._pull.send_multipart([peer, frame], zmq.DONTWAIT)

    def close(self) -> None:
        """Return when the last answers are sent, or nobody takes them."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pull.fileno())
        loop.remove_reader(self._monitor.fileno())
        self._pull.disable_monitor()
        self._monitor.close(0)
        self._pull.close(LAST_ANSWERS_MS)
        zmq.Context.instance().term()

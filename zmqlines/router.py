"""`zmqpull.py --ack`: the collector's end of acknowledged delivery, a ROUTER socket.

See docs/protocol.md.
"""

from __future__ import annotations

import asyncio
import contextlib

import zmq

from zmqlines.ack import ACK_REFUSAL, ACK_VERSION, NO_LIMIT, Answer, Offer, OtherVersion
from zmqlines.curve import Curve
from zmqlines.pull import ENOUGH_BYTES, Pull

LAST_ANSWERS_MS = 500


class Router(Pull):
    """The ROUTER socket, which takes offers and answers them."""

    KIND = zmq.ROUTER
    FITTING = "zmqpush.py --ack"
    MISFITS = "zmqpush.py without --ack, another PUSH or PUB socket, one with CURVE"

    def __init__(
        self,
        bind: list[str],
        connect: list[str],
        curve: Curve | None = None,
        rcvhwm: int = 1000,
        max_message: int = 0,
        memory_limit: int = 0,
    ) -> None:
        """As of Pull; all shippers together may have `memory_limit` bytes under way (0: any)."""
        self._memory_limit = memory_limit
        self._fewest = 1  # connections there were since the credits were last told to all
        self._last_answers: dict[bytes, Answer] = {}  # by peer, of those that may be there
        super().__init__(bind, connect, curve, rcvhwm, max_message)
        self._pull.setsockopt(zmq.ROUTER_MANDATORY, 1)  # tells who has gone

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
        if offers:
            self._on_monitor()  # who has sent them was counted before: his credit depends on it
        return offers

    def answer(self, peer: bytes, answer: Answer) -> None:
        """Tell it `peer`, if that is still there."""
        answer.credit = self._credit()
        self._last_answers.pop(peer, None)
        self._last_answers[peer] = answer
        self._send(peer, answer.frame())

    def _credit(self) -> int:
        """What a shipper may have under way.

        Half of what is there is divided among all that are connected. Before they are twice as
        many, all are told anew: so together they never have more than there is.
        """
        peers = max(len(self.peers.standing), 1)
        return max(self._memory_limit // 2 // peers, 1) if self._memory_limit else NO_LIMIT

    def _on_monitor(self) -> None:
        super()._on_monitor()
        peers = len(self.peers.standing)
        if peers < 2 * self._fewest or not self._memory_limit:
            self._fewest = max(min(self._fewest, peers), 1)
            return
        self._fewest = peers
        for peer, answer in list(self._last_answers.items()):
            answer.credit = self._credit()
            self._send(peer, answer.frame())

    def _send(self, peer: bytes, frame: bytes) -> None:
        try:
            self._pull.send_multipart([peer, frame], zmq.DONTWAIT)
        except zmq.ZMQError:  # it does not read, or has gone (ZMQ_ROUTER_MANDATORY)
            self._last_answers.pop(peer, None)
        # To send also takes note of what has come, of which the descriptor then does not tell.
        if int(self._pull.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self.announce()

    def close(self) -> None:
        """Return when the last answers are sent, or nobody takes them."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pull.fileno())
        loop.remove_reader(self._monitor.fileno())
        self._pull.disable_monitor()
        self._monitor.close(0)
        self._pull.close(LAST_ANSWERS_MS)
        if self._curve:
            self._curve.close()
        zmq.Context.instance().term()

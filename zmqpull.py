#!/usr/bin/env python3
"""Collect events from ZeroMQ PUSH sockets, and write each as a line of JSON to one or more sinks.

The pattern is the sink of the ZeroMQ Guide's pipeline:

    PUSH --> Pull.take() --> events_of() --> sinks: standard output, a file, Redis, SQLite
             libzmq queues   one event       (zmqlines/sinks/)
             what comes      a line

The next messages are taken when all sinks have the last ones; with --ack (Router instead of Pull)
they are taken meanwhile, to be given to the sinks then. A sink that fails is tried again with what
it lacks; nothing more is taken until it succeeds, libzmq's queues fill, and the senders are held
back.
"""

from __future__ import annotations

import os
import signal
import sys

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until there is somebody to act on them
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # Python's -I leaves it out
    keeps_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # beside the programs

import zmqpush  # first: it says what is missing

if __name__ == "__main__":
    sys.dont_write_bytecode = keeps_bytecode
    del sys.path[0]
try:
    zmqpush.find_house()
except ImportError as missing:
    zmqpush.fail(str(missing))

import argparse
import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from zmqlines import sinks
from zmqlines.ack import Offer
from zmqlines.counters import repeat
from zmqlines.descriptors import allow_open_files
from zmqlines.events import events_of
from zmqlines.pull import Pull
from zmqlines.router import Router
from zmqlines.sinks.contract import Sink, Trouble

DEFAULT_ENDPOINT = zmqpush.DEFAULT_ENDPOINT
MOST_FRAMES = 2000  # that are taken at a time
MOST_OFFERS = 100  # that are taken at a time
RETRY_S = 1.0
GRACE_AFTER_SIGNAL_S = 2.0
LAST_WRITE_S = 0.5  # of these are for what is in hand: what comes may have no end


# ---- running ----------------------------------------------------------------------------------


class Collector:
    """Takes what comes and gives it to all sinks, until it is stopped or has enough."""

    def __init__(self, pull: Pull, sinks: list[Sink], limit: float) -> None:
        self.events = 0  # that all sinks have
        self.bytes = 0
        self.in_hand = 0  # events that not all sinks have
        self.stopping = False
        self.has_enough = False
        self._pull = pull
        self._sinks = sinks
        self._limit = limit
        self._started_at = time.monotonic()
        self._kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kept.set_result(None)

    async def run(self) -> None:
        """Raises BrokenPipeError where nobody reads standard output any more."""
        router = self._pull if isinstance(self._pull, Router) else None
        while self._wants_more():
            taken = await (self._take_offers(router) if router else self._take())
            # What is not acknowledged, its shipper keeps: there it need not be taken first.
            if self.stopping and (not taken or router):
                break
            if taken:
                await asyncio.sleep(0)  # let signals and timers have their turn
            elif self._wants_more():
                await self._pull.wait()
        await self._kept

    def _wants_more(self) -> bool:
        return self.events < self._limit and not self.has_enough

    async def _take(self) -> bool:
        """Take what is there, and give it to the sinks; whether there was something."""
        frames = self._pull.take(int(min(MOST_FRAMES, self._limit - self.events)))
        if frames:
            await self._give(events_of(frames))
        return bool(frames)

    async def _give(self, events: list[bytes]) -> None:
        if len(events) > self._limit - self.events:
            del events[int(self._limit - self.events) :]
        if not events:
            return
        self.in_hand = len(events)
        await together(
            [insist(sink, functools.partial(sink.write, events)) for sink in self._sinks]
        )
        self.in_hand = 0
        self.events += len(events)
        self.bytes += sum(map(len, events))

    async def _take_offers(self, router: Router) -> bool:
        """Take what is there, while the sinks keep what was there before; whether there was any."""
        offers = router.take_offers(MOST_OFFERS)
        await self._kept
        if offers and self._wants_more():
            self._kept = asyncio.ensure_future(self._keep(router, offers))
        return bool(offers)

    async def _keep(self, router: Router, offers: list[Offer]) -> None:
        """Give `offers` to all sinks, and answer what all of them have."""
        self.in_hand = sum(len(offer.events) for offer in offers)
        kept = await together(
            [insist(sink, functools.partial(sink.keep, offers)) for sink in self._sinks]
        )
        self.in_hand = 0
        for offer in offers:
            if offer.is_new:
                self.events += len(offer.events)
                self.bytes += sum(map(len, offer.events))
        for peer, shipper in {(offer.peer, offer.shipper): None for offer in offers}:
            router.answer(peer, shipper, min(records[shipper] for records in kept))

    def stop(self) -> None:
        """Let it end, with what is there."""
        self.stopping = True
        self._pull.announce()

    def take_no_more(self) -> None:
        """Let it end with what it has in hand."""
        self.has_enough = True

    def counters(self) -> None:
        """Say them on stderr."""
        zmqpush.say(
            f"{time.monotonic() - self._started_at:.1f}s: {self.events} events written "
            f"({self.bytes} bytes), {self.in_hand} in hand"
        )


Got = TypeVar("Got")


async def together(attempts: list[Coroutine[Any, Any, Got]]) -> list[Got]:
    """What all of them give; one alone needs no task, which takes three turns of the event loop."""
    if len(attempts) == 1:
        return [await attempts[0]]
    return await asyncio.gather(*attempts)


async def insist(sink: Sink, attempt: Callable[[], Awaitable[Got]]) -> Got:
    """What `attempt` at `sink` gives when it succeeds, however long that takes."""
    failing = False
    while True:
        try:
            got = await attempt()
            break
        except Trouble as trouble:
            if not failing:
                zmqpush.say(f"{sink.name}: {trouble}; the senders have to wait")
            failing = True
            await asyncio.sleep(RETRY_S)
    if failing:
        zmqpush.say(f"{sink.name}: going on")
    return got


async def collect(options: argparse.Namespace) -> int:
    """Collect until the end; returns the exit status."""
    allow_open_files()  # a connection takes one
    try:
        kept_in = sinks.open_sinks(options)
    except ValueError as error:
        zmqpush.fail(str(error))
    try:
        pull = (Router if options.ack else Pull)(options.bind, options.connect)
    except OSError as error:
        zmqpush.fail(f"{error.filename}: {error.strerror}")
    collector = Collector(pull, kept_in, options.n or math.inf)
    loop = asyncio.get_running_loop()
    gave_up = loop.create_future()

    def end() -> None:
        if not gave_up.done():
            gave_up.set_result(None)

    def on_signal(number: int) -> None:
        if collector.stopping and number == signal.SIGINT:
            end()
        elif not collector.stopping:
            collector.stop()
            loop.call_later(GRACE_AFTER_SIGNAL_S - LAST_WRITE_S, collector.take_no_more)
            loop.call_later(GRACE_AFTER_SIGNAL_S, end)

    def reopen() -> None:
        for sink in kept_in:
            sink.reopen()

    loop.add_signal_handler(signal.SIGINT, on_signal, signal.SIGINT)
    loop.add_signal_handler(signal.SIGTERM, on_signal, signal.SIGTERM)
    loop.add_signal_handler(signal.SIGHUP, reopen)
    loop.add_signal_handler(signal.SIGUSR1, collector.counters)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if options.stats:
        repeat(collector.counters, options.stats)
    collecting = loop.create_task(collector.run())
    await asyncio.wait({collecting, gave_up}, return_when=asyncio.FIRST_COMPLETED)
    if collecting.done():
        with contextlib.suppress(BrokenPipeError):
            collecting.result()
    lost = 0 if collecting.done() or options.ack else collector.in_hand
    if lost:
        zmqpush.say(
            f"gave up at most {lost} events that could not be written, "
            "and what libzmq held, which it does not tell"
        )
    if isinstance(pull, Router):
        pull.close()
    if not options.quiet:
        zmqpush.say(f"{collector.events} events written")
    return 1 if lost else 0


# ---- command line -----------------------------------------------------------------------------


def build_parser(description: str) -> zmqpush.Parser:
    """All options."""
    parser = zmqpush.Parser(description, "ZMQPULL_")
    parser.add_argument("--version", action="version", version=f"%(prog)s {zmqpush.__version__}")
    option = parser.option
    # fmt: off
    option("-b", "--bind", metavar="ENDPOINT", type=zmqpush.BIND, default=[],
           help=f"let senders connect; repeatable ({DEFAULT_ENDPOINT})")
    option("-c", "--connect", metavar="ENDPOINT", type=zmqpush.CONNECT, default=[],
           help="connect to a sender that binds; repeatable")
    sinks.add_options(option)
    option("-n", metavar="N", type=zmqpush.COUNT, default=0, help="end after N events")
    option("--ack", action="store_true", default=False,
           help="acknowledged delivery, from zmqpush.py --ack; --bind only")
    option("--stats", metavar="SECONDS", type=zmqpush.INTERVAL, default=0.0,
           help="counters on stderr that often; SIGUSR1 asks for them at once")
    option("-q", "--quiet", action="store_true", default=False, help="no count at the end")
    # fmt: on
    return parser


def parse_options(parser: zmqpush.Parser, arguments: list[str]) -> argparse.Namespace:
    """The options, made sure to fit together."""
    options = parser.parse(arguments)
    options.bind = options.bind or ([] if options.connect else [DEFAULT_ENDPOINT])
    for endpoint in options.bind:
        if endpoint in options.connect:
            parser.error(f"{endpoint} cannot be both bound and connected to")
    if options.ack and options.connect:
        parser.error("--ack binds: it cannot be used with --connect")
    try:
        sinks.check(options)
    except ValueError as misfit:
        parser.error(str(misfit))
    return options


def main() -> None:
    """Run the program."""
    zmqpush.open_standard_descriptors()
    options = parse_options(build_parser(__doc__.partition("\n")[0]), sys.argv[1:])
    os._exit(asyncio.run(collect(options)))  # without waiting for libzmq's threads


if __name__ == "__main__":
    main()

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
import functools
import math
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from zmqlines import curve, keys, sinks
from zmqlines.ack import Answer, Offer, next_record
from zmqlines.counters import repeat
from zmqlines.descriptors import allow_open_files
from zmqlines.events import events_of
from zmqlines.insisting import DeadLetters, Insisting
from zmqlines.pid_file import PidFile
from zmqlines.pull import Pull
from zmqlines.router import Router
from zmqlines.sinks.contract import Sink

DEFAULT_ENDPOINT = zmqpush.DEFAULT_ENDPOINT
MOST_FRAMES = 2000  # that are taken at a time
MOST_OFFERS = 100  # that are taken at a time
GRACE_AFTER_SIGNAL_S = 2.0
LEAVING_S = 0.3  # how long the sinks may tidy up
LAST_WRITE_S = 0.5  # of these are for what is in hand: what comes may have no end


# ---- running ----------------------------------------------------------------------------------


class Collector:
    """Takes what comes and gives it to all sinks, until it is stopped or has enough."""

    def __init__(self, pull: Pull, sinks: list[Insisting], limit: float) -> None:
        self.events = 0  # that all sinks have
        self.bytes = 0
        self.in_hand = 0  # events that not all sinks have
        self.stopping = False
        self.has_enough = False
        self.left_some = False  # in libzmq, which does not tell how much
        self._pull = pull
        self._sinks = sinks
        self._limit = limit
        self._started_at = time.monotonic()
        self._beginning: list[asyncio.Future[None]] = []
        self._kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kept.set_result(None)

    async def run(self) -> None:
        """Raises BrokenPipeError where nobody reads standard output any more."""
        self._beginning = [asyncio.ensure_future(each.begin()) for each in self._sinks]
        router = self._pull if isinstance(self._pull, Router) else None
        while self._wants_more():
            taken = await (self._take_offers(router) if router else self._take())
            # What is not acknowledged, its shipper keeps: there it need not be taken first.
            if self.stopping and (router or not (taken or await self._pull.has_soon())):
                break
            if taken:
                await asyncio.sleep(0)  # let signals and timers have their turn
            elif self._wants_more():
                await self._pull.wait()
        await self._kept
        # What libzmq holds of senders that never cease is lost with us, and they do not know.
        self.left_some = self.has_enough and not router and self._pull.has_more()

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
            [each.insist(functools.partial(each.sink.write, events)) for each in self._sinks]
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
        if self.events + self.in_hand <= self._limit:
            await self._keep_all(router, offers)
        else:
            for offer in offers:
                if self.events + len(offer.events) <= self._limit:
                    await self._keep_all(router, [offer])
                elif await self._keep_beginning(router, offer):
                    break
        self.in_hand = 0

    async def _keep_all(self, router: Router, offers: list[Offer]) -> list[dict[bytes, int]]:
        """Give `offers` to all sinks, and answer what all of them have; returns their records."""
        kept = await together(
            [each.insist(functools.partial(each.sink.keep, offers)) for each in self._sinks]
        )
        for offer in offers:
            if offer.is_new:
                self.events += len(offer.events)
                self.bytes += sum(map(len, offer.events))
        for peer, shipper in {(o.peer, o.shipper): None for o in offers if not o.last}:
            router.answer(peer, Answer(shipper, min(records[shipper] for records in kept)))
        await self._part(router, [offer for offer in offers if offer.last], kept)
        return kept

    async def _part(
        self, router: Router, goodbyes: list[Offer], kept: list[dict[bytes, int]]
    ) -> None:
        """Forget who has said goodbye, if all of it is here; and answer."""
        left = {bye.shipper: max(records[bye.shipper] for records in kept) for bye in goodbyes}
        gone = [bye.shipper for bye in goodbyes if left[bye.shipper] == bye.last]
        if gone:
            await together(
                [each.insist(functools.partial(each.sink.forget, gone)) for each in self._sinks]
            )
        for bye in goodbyes:
            number = 0 if bye.shipper in gone else left[bye.shipper]
            router.answer(bye.peer, Answer(bye.shipper, number, is_farewell=True))

    async def _keep_beginning(self, router: Router, offer: Offer) -> bool:
        """Write as many events of a new chunk as are wanted; whether it was one.

        It is not acknowledged, so that its shipper still has all of it.
        """
        question = Offer(offer.peer, offer.shipper, 0, 0, [])
        records = [kept[offer.shipper] for kept in await self._keep_all(router, [question])]
        lacking = [
            each
            for each, record in zip(self._sinks, records)
            if record < offer.number == next_record(record, offer)
        ]
        if lacking:
            events = offer.events[: int(self._limit - self.events)]
            await together(
                [each.insist(functools.partial(each.sink.write, events)) for each in lacking]
            )
            self.events += len(events)
            self.bytes += sum(map(len, events))
        return bool(lacking)

    def stop(self) -> None:
        """Let it end, with what is there."""
        self.stopping = True
        self._pull.announce()

    def take_no_more(self) -> None:
        """Let it end with what it has in hand."""
        self.has_enough = True

    def counters(self) -> None:
        """Say them on stderr."""
        turned_away = self._pull.turned_away()
        zmqpush.say(
            f"{time.monotonic() - self._started_at:.1f}s: {self.events} events written "
            f"({self.bytes} bytes), {self.in_hand} in hand"
            + f", {turned_away} peers turned away"
            * bool(turned_away)
        )


Got = TypeVar("Got")


async def together(attempts: list[Coroutine[Any, Any, Got]]) -> list[Got]:
    """What all of them give; one alone needs no task, which takes three turns of the event loop."""
    if len(attempts) == 1:
        return [await attempts[0]]
    return await asyncio.gather(*attempts)


def make_pull(options: argparse.Namespace, guard: curve.Curve | None) -> Pull:
    """What the events come through. Raises OSError, whose `filename` is the endpoint."""
    ends = options.bind, options.connect, guard, options.rcvhwm, options.max_message
    return Router(*ends, options.memory_limit) if options.ack else Pull(*ends)


async def collect(options: argparse.Namespace) -> int:
    """Collect until the end, with a pid file if that is wanted; returns the exit status."""
    allow_open_files()  # a connection takes one
    pid_file = lock_pid_file(options.pid_file) if options.pid_file else None
    try:
        return await collect_with(pid_file, options)
    finally:
        if pid_file:
            pid_file.remove()


def lock_pid_file(path: str) -> PidFile:
    """It, locked; ends the program where that cannot be."""
    try:
        return PidFile(path)
    except OSError as error:
        zmqpush.fail(f"--pid-file {path}: {error.strerror}")
    except ValueError as error:
        zmqpush.fail(f"--pid-file {path}: {error}")


async def collect_with(pid_file: PidFile | None, options: argparse.Namespace) -> int:
    """Open the sinks, collect until the end, close the sinks; returns the exit status."""
    try:
        letters = DeadLetters(options.dead_letter) if options.dead_letter else None
        kept_in = sinks.open_sinks(options)
    except OSError as error:
        zmqpush.fail(f"--dead-letter {error.filename}: {error.strerror}")
    except ValueError as error:
        zmqpush.fail(str(error))
    try:
        return await collect_into(kept_in, letters, pid_file, options)
    finally:
        for sink in kept_in:
            sink.close()


async def collect_into(
    kept_in: list[Sink],
    letters: DeadLetters | None,
    pid_file: PidFile | None,
    options: argparse.Namespace,
) -> int:
    """Collect until the end; returns the exit status."""
    try:
        guard = curve.open_curve(options)
        pull = make_pull(options, guard)
    except OSError as error:
        zmqpush.fail(f"{error.filename}: {error.strerror}")
    for asked, bound in pull.bound.items():
        if asked.endswith(":*") or not options.quiet:
            zmqpush.say(f"bound to {bound}")
    if not (guard or options.quiet):
        curve.say_exposed(list(pull.bound), "write events")
    insisting = [Insisting(sink, letters) for sink in kept_in]
    collector = Collector(pull, insisting, options.n or math.inf)
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
        if letters:
            letters.reopen()
        if guard:
            guard.reload()
        for sink in kept_in:
            try:
                sink.reopen()
            except BrokenPipeError:
                on_signal(signal.SIGTERM)

    loop.add_signal_handler(signal.SIGINT, on_signal, signal.SIGINT)
    loop.add_signal_handler(signal.SIGTERM, on_signal, signal.SIGTERM)
    loop.add_signal_handler(signal.SIGHUP, reopen)
    loop.add_signal_handler(signal.SIGUSR1, collector.counters)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if pid_file:
        pid_file.write()
    if options.stats:
        repeat(collector.counters, options.stats)
    collecting = loop.create_task(collector.run())
    await asyncio.wait({collecting, gave_up}, return_when=asyncio.FIRST_COMPLETED)
    delivered = collecting.done()
    if delivered:
        try:
            collecting.result()
        except BrokenPipeError:
            delivered = False
            zmqpush.say("nobody reads the output any more")
    lost = 0 if delivered or options.ack else collector.in_hand
    if lost:
        zmqpush.say(
            f"gave up at most {lost} events that could not be written, "
            "and what libzmq held, which it does not tell"
        )
    elif collector.left_some:
        zmqpush.say("gave up what libzmq held, which it does not tell; the senders have not ended")
    leaving = {asyncio.ensure_future(sink.leave()) for sink in kept_in}
    await asyncio.wait(leaving, timeout=LEAVING_S)
    if isinstance(pull, Router):
        pull.close()
    if not options.quiet:
        zmqpush.say(f"{collector.events} events written")
    return 1 if lost or collector.left_some else 0


# ---- command line -----------------------------------------------------------------------------


def build_parser(description: str) -> zmqpush.Parser:
    """All options."""
    size = zmqpush.checked(zmqpush.read_size, "a size such as 65536, 64k, 1M or 2G")
    count_or_0 = zmqpush.checked(int, "a whole number from 0 up", 0, zmqpush.LARGEST_INT)
    parser = zmqpush.Parser(description, "ZMQPULL_")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"""{parser.epilog}

examples:
  %(prog)s --bind tcp://*:2120 --output /var/log/events.json --pid-file /run/zmqpull.pid
  %(prog)s --bind tcp://*:2120 --ack --sqlite /var/lib/events.db

exit status:
  0  all that was taken is where it should be, or its senders still have it
  1  something was given up
  2  it cannot work: a bad option, endpoint or combination, a sink that cannot be opened"""
    parser.add_argument("--version", action="version", version=f"%(prog)s {zmqpush.__version__}")
    option = parser.option
    # fmt: off
    parser.group = parser.add_argument_group("choose where events come from")
    option("-b", "--bind", metavar="ENDPOINT", type=zmqpush.BIND, default=[],
           help=f"let senders connect; repeatable ({DEFAULT_ENDPOINT})")
    option("-c", "--connect", metavar="ENDPOINT", type=zmqpush.CONNECT, default=[],
           help="connect to a sender that binds; repeatable")
    option("--ack", action="store_true", default=False,
           help="acknowledged delivery, from zmqpush.py --ack; --bind only")
    option("-n", metavar="N", type=zmqpush.COUNT, default=0, help="end after N events")
    parser.group = parser.add_argument_group("choose where they go (standard output)")
    sinks.add_options(option)
    option("--dead-letter", metavar="FILE", default="",
           help="append what a sink can never take to FILE; without it, all waits")
    zmqpush.add_curve_options(parser)
    parser.group = parser.add_argument_group("limit the memory")
    option("--rcvhwm", metavar="N", type=count_or_0, default=1000,
           help="ZMQ_RCVHWM: messages that libzmq takes ahead a connection; 0: no limit (1000)")
    option("--max-message", metavar="SIZE", type=size, default=64 * 1024**2,
           help="cut off who sends a larger message (ZMQ_MAXMSGSIZE); 0: no limit (64M)")
    option("--memory-limit", metavar="SIZE", type=size, default=64 * 1024**2,
           help="what all shippers together may have under way, with --ack; 0: no limit (64M)")
    parser.group = parser.add_argument_group("see what it does, and signal it")
    option("--pid-file", metavar="FILE", default="",
           help="hold our pid in FILE, locked, from when we are ready until we end")
    option("--stats", metavar="SECONDS", type=zmqpush.INTERVAL, default=0.0,
           help="counters on stderr that often; SIGUSR1 asks for them at once")
    option("-q", "--quiet", action="store_true", default=False,
           help="no word at the start, and no count at the end")
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
    parser.check_parts(options)
    try:
        sinks.check(options)
    except ValueError as misfit:
        parser.error(str(misfit))
    return options


def main() -> None:
    """Run the program."""
    zmqpush.open_standard_descriptors()
    options = parse_options(build_parser(__doc__.partition("\n")[0]), sys.argv[1:])
    if options.curve_keygen:
        sys.exit(keys.keygen(options.curve_keygen))
    os._exit(run(collect(options)))  # without waiting for libzmq's threads


def run(main: Coroutine[Any, Any, int]) -> int:
    """What `main` gives. Whatever else is under way then is left alone.

    asyncio.run() would cancel it, and wait until that has ended: of redis-py, before Python 3.12,
    that may be never, and of a thread that waits for a disk as well.
    """
    try:
        return asyncio.new_event_loop().run_until_complete(main)
    except SystemExit as refusal:  # let through, it would have the loop be found open
        return int(refusal.code or 0)
    except Exception:  # a bug
        sys.excepthook(*sys.exc_info())
        return 1


if __name__ == "__main__":
    main()

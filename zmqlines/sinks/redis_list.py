"""Events at the end of a Redis list (RPUSH): Logstash's redis input takes them, and BLPOP.

A script pushes a chunk and raises its shipper's record in one step, so that what Redis did not
answer for in time can be given to it again: it is not pushed twice. Without --ack the collector
itself is such a shipper, and what it has in hand is such a chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import zmqpush
from zmqlines.ack import LONGEST_STEP_S, RECORD_LASTS_S, Offer
from zmqlines.sinks.contract import Refused, Sink, Trouble

SLICE = 1000  # events in one command
SLICE_SIZE = 4 * 1024 * 1024  # bytes in one command, but for one larger event
FULL_LIST_S = 0.2  # how often to look whether a list has room again
ANSWER_S = 5.0  # how long Redis may take to answer, or to accept a connection
KEEPALIVE_AFTER_S = 60
LARGEST_EVENT = 512 * 1024 * 1024  # bytes: proto-max-bulk-len as Redis comes
MOST_KNOWN = 10_000  # shippers whose records are known here, too


def add_options(option: Callable[..., Any]) -> None:
    """Those of this sink."""
    # fmt: off
    option("--redis", metavar="URL", default="",
           help="push to a list in Redis, such as redis://localhost:6379/0 (needs redis)")
    option("--key", metavar="NAME", default="logstash", help="the list's name (logstash)")
    option("--redis-limit", metavar="N", type=zmqpush.COUNT, default=0,
           help="wait while the list has N elements, which is the most it gets")
    # fmt: on


def check(options: argparse.Namespace) -> None:
    """Raises ValueError where the options do not fit together."""
    if options.redis_limit and not options.redis:
        raise ValueError("--redis-limit is for --redis")
    if options.redis:
        try:
            import redis.asyncio  # noqa: F401
        except ImportError as missing:
            how = "install python3-redis (Debian), or zmqpush[redis] or redis (pip)"
            raise ValueError(f"--redis: {missing}; {how}") from None


def sinks(options: argparse.Namespace) -> list[Sink]:
    """Those that were asked for. Raises ValueError."""
    if not options.redis:
        return []
    try:
        return [RedisList(options.redis, options.key, options.redis_limit)]
    except ValueError as error:
        raise ValueError(f"--redis: {error}") from None


class RedisList(Sink):
    """A list, and beside it a record for each shipper."""

    # next_record() for one offer, and its events, in one step. KEYS are the list, the shippers'
    # records, and when they were here. ARGV: the shipper, number, first, the limit of the list (0:
    # none), the place in the chunk of the first event that follows, how many events the chunk has,
    # and events. A record is the number of the last chunk, and how many events of the next one are
    # in the list. Lua cannot unpack too many at once.
    KEEP = f"""
        local number, first = tonumber(ARGV[2]), tonumber(ARGV[3])
        local limit, place, total = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
        local kept = redis.call('HGET', KEYS[2], ARGV[1]) or '-1 0'
        local record, there = string.match(kept, '(%S+) (%S+)')
        record, there = tonumber(record), tonumber(there)
        local before = record
        if number == 0 then return {{math.max(record, 0), 0, before, 0}} end
        if record < first - 1 then record, there = first - 1, 0 end
        local is_new = 0
        if number == record + 1 and there >= place then
            local start, last = 7 + there - place, #ARGV
            if limit > 0 then
                last = math.min(last, start - 1 + limit - redis.call('LLEN', KEYS[1]))
            end
            for at = start, last, {SLICE} do
                redis.call('RPUSH', KEYS[1], unpack(ARGV, at, math.min(at + {SLICE} - 1, last)))
            end
            there = math.max(there, place + last - 6)
            if there == total then record, there, is_new = number, 0, 1 end
        end
        local at = tonumber(redis.call('TIME')[1])
        local clock = redis.call('HMGET', KEYS[2], 'at', 'age')
        local step = math.max(at - (tonumber(clock[1]) or at), 0)
        local age = (tonumber(clock[2]) or 0) + math.min(step, {LONGEST_STEP_S})
        redis.call('HSET', KEYS[2], 'at', at, 'age', age, ARGV[1],
                   string.format('%.0f %.0f', record, there))
        redis.call('ZADD', KEYS[3], age, ARGV[1])
        local oldest = '(' .. age - {RECORD_LASTS_S}
        for _, gone in ipairs(redis.call(
                'ZRANGEBYSCORE', KEYS[3], '-inf', oldest, 'LIMIT', 0, 10)) do
            redis.call('HDEL', KEYS[2], gone)
            redis.call('ZREM', KEYS[3], gone)
        end
        return {{record, is_new, before, there}}
    """

    def __init__(self, url: str, key: str, limit: int) -> None:
        """The list has `limit` elements at most (0: any number). Raises ValueError."""
        import redis.asyncio
        import redis.asyncio.retry
        import redis.backoff

        self._errors = (redis.RedisError, OSError, asyncio.TimeoutError)
        self._response_error = redis.ResponseError
        self._no_script = redis.exceptions.NoScriptError
        client: Any = redis.asyncio.Redis
        self._client = client.from_url(
            url,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=ANSWER_S,
            socket_keepalive=True,
            socket_keepalive_options={socket.TCP_KEEPIDLE: KEEPALIVE_AFTER_S},
            retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),  # that is ours
        )
        self._pool = self._client.connection_pool
        try:
            # To know now what is wrong, and not at the first event.
            self._pool.connection_class(**self._pool.connection_kwargs)
        except (TypeError, redis.RedisError) as error:
            raise ValueError(error) from None
        self._keys = [key, records_key(key), f"{records_key(key)}:seen"]
        self._limit = limit
        self._sha = hashlib.sha1(self.KEEP.encode(), usedforsecurity=False).hexdigest()
        self._has_script = False
        self._largest = 0  # bytes of an event; 0: Redis was not asked yet
        self._said_policy = False
        self._looking = asyncio.Lock()
        self._known: dict[bytes, int] = {}  # records, as they were answered
        self._failed = False
        self._writer = os.urandom(zmqpush.SHIPPER_SIZE)  # the collector as a shipper
        self._number = 1  # of what it has in hand
        self.name = f"{re.sub('//.*@', '//', url)} {key}"

    async def begin(self) -> None:
        """See whether it is there, and how it is configured. Raises Trouble."""
        async with self._looking:
            if self._largest:
                return
            try:
                await self._client.ping()
                await self._look()
            except self._errors as error:
                raise await self._trouble(error) from None

    async def _look(self) -> None:
        """Ask what it may not tell everybody."""
        self._largest = LARGEST_EVENT
        try:
            found = await self._client.config_get("proto-max-bulk-len")
            self._largest = int(found.get("proto-max-bulk-len", LARGEST_EVENT))
            memory = await self._client.info("memory")
        except self._response_error:
            return
        policy = str(memory.get("maxmemory_policy"))
        if policy.startswith("allkeys") and memory.get("maxmemory") and not self._said_policy:
            self._said_policy = True
            zmqpush.say(
                f"{self.name}: maxmemory-policy {policy} lets Redis drop events and records; "
                "with noeviction the senders wait instead"
            )

    async def write(self, events: list[bytes]) -> None:
        """Push `events`; after Trouble, those that are not there."""
        await self._push([Offer(b"", self._writer, self._number, self._number, events)])
        self._number += 1

    async def leave(self) -> None:
        """Remove the collector's own record, which only its next attempt would need."""
        if self._number == 1 or self._failed:
            return
        with contextlib.suppress(*self._errors):
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.hdel(self._keys[1], self._writer.hex())
                pipeline.zrem(self._keys[2], self._writer.hex())
                await pipeline.execute()

    async def keep(self, offers: list[Offer]) -> dict[bytes, int]:
        """Push what is new in `offers`; returns the shippers' records, which are in Redis, too."""
        before = await self._push(offers)
        self.say_gaps(offers, before)
        records = {offer.shipper: self._known[offer.shipper] for offer in offers}
        while len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
        return records

    async def forget(self, shippers: list[bytes]) -> None:
        """Keep no record of them."""
        names = [shipper.hex() for shipper in shippers]
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.hdel(self._keys[1], *names)
                pipeline.zrem(self._keys[2], *names)
                await pipeline.execute()
        except self._errors as error:
            raise await self._trouble(error) from None
        for shipper in shippers:
            self._known.pop(shipper, None)

    async def _push(self, offers: list[Offer]) -> dict[bytes, int | None]:
        """Push what is new, as there is room; returns the records as they were before."""
        await self.begin()
        for offer in offers:
            if sum(map(len, offer.events)) > self._largest:
                self._refuse(offer.events, self._largest)
        before: dict[bytes, int | None] = {}
        left, place = offers, 0  # the chunks to push, and how much of the first one is there
        try:
            while left:
                await self._until_room()
                calls = list(self._calls(left, place))
                left, place = self._read(left, calls, await self._run(calls), before)
        except self._errors as error:
            trouble = await self._trouble(error)
            if "invalid bulk length" in str(error):  # and we may not ask for the limit
                raise self._refused_largest(left, str(error)) from None
            raise trouble from None
        self._failed = False
        return before

    def _refuse(self, events: list[bytes], largest: int) -> None:
        for event in self.wanted(events):
            if len(event) > largest:
                self._largest = 0  # the next attempt asks again: somebody may change it
                raise Refused(event, f"Redis takes {largest} bytes, see its proto-max-bulk-len")

    def _refused_largest(self, offers: list[Offer], why: str) -> Refused:
        events = itertools.chain.from_iterable(self.wanted(offer.events) for offer in offers)
        return Refused(max(events, key=len), f"{why}, see its proto-max-bulk-len")

    async def _until_room(self) -> None:
        while self._limit and await self._client.llen(self._keys[0]) >= self._limit:
            await asyncio.sleep(FULL_LIST_S)

    def _calls(self, offers: list[Offer], place: int) -> Iterator[tuple[int, list[Any]]]:
        """The script's arguments for each part of each of `offers`, of the first from `place` on.

        With each goes the place of its offer.
        """
        for at, offer in enumerate(offers):
            events = self.wanted(offer.events)
            head = [offer.shipper.hex(), offer.number, offer.first, self._limit]
            if place >= len(events):
                yield at, [*head, 0, 0]
            while place < len(events):
                count = size = 0
                for event in itertools.islice(events, place, place + SLICE):
                    if count and size + len(event) > SLICE_SIZE:
                        break
                    count, size = count + 1, size + len(event)
                yield at, [*head, place, len(events), *events[place : place + count]]
                place += count
            place = 0

    async def _run(self, calls: list[tuple[int, list[Any]]]) -> list[Any]:
        """What the script answers to each of `calls`, which may be an error of Redis."""
        while True:
            async with self._client.pipeline(transaction=False) as pipeline:
                for number, (_, arguments) in enumerate(calls):
                    # EVAL makes the script known, for what follows in the pipeline as well.
                    is_known = self._has_script or number
                    script = ["EVALSHA", self._sha] if is_known else ["EVAL", self.KEEP]
                    pipeline.execute_command(*script, len(self._keys), *self._keys, *arguments)
                answers: list[Any] = await pipeline.execute(raise_on_error=False)
            if not isinstance(answers[0], self._no_script):
                self._has_script = not isinstance(answers[0], Exception)
                return answers
            self._has_script = False

    def _read(
        self,
        offers: list[Offer],
        calls: list[tuple[int, list[Any]]],
        answers: list[Any],
        before: dict[bytes, int | None],
    ) -> tuple[list[Offer], int]:
        """Note what the answers say, and raise what was an error.

        Returns the offers from the first for which there was no room, and how much of that is
        there.
        """
        left: list[Offer] = []
        place = 0
        records: dict[bytes, int] = {}
        for number, ((at, _), answer) in enumerate(zip(calls, answers), 1):
            if isinstance(answer, Exception):
                raise answer
            offer = offers[at]
            record, is_new, was, there = answer
            before.setdefault(offer.shipper, None if was < 0 else was)
            # What was pushed by an attempt that was not answered for is new, too.
            by_us = self._failed and self._known.get(offer.shipper, 0) < offer.number <= record
            offer.is_new = offer.is_new or bool(is_new) or by_us
            records[offer.shipper] = record
            is_last_part = number == len(calls) or calls[number][0] != at
            if is_last_part and not left and offer.number == record + 1:
                left, place = offers[at:], there  # it was its turn, and not all of it is there
        for shipper, record in records.items():
            self._known.pop(shipper, None)
            self._known[shipper] = record  # the last one is the one that was here last
        return left, place

    async def _trouble(self, error: Exception) -> Trouble:
        """What to raise for `error`. The next attempt makes a connection to who is there then.

        That may be another one: behind a name, another server takes over from the one that is a
        read only replica now.
        """
        self._failed = True
        self._largest = 0
        self._has_script = False
        with contextlib.suppress(*self._errors):
            await self._pool.disconnect()
        text = str(error) or type(error).__name__
        if "hash to the same slot" in text or "CROSSSLOT" in text:
            text += " (in Redis Cluster a --key with braces has to be as in {name})"
        if "MOVED" in text:
            text += " (that node of the cluster has the list: name it in --redis)"
        return Trouble(text)


def records_key(key: str) -> str:
    """Where the records of the list `key` are: in Redis Cluster in the same slot, if it can be.

    The slot is that of what is in the first braces, if that is something, else of all the name.
    """
    start = key.find("{")
    end = key.find("}", start + 1) if start >= 0 else -1
    has_tag = end > start + 1
    return f"zmqpull:{key}" if has_tag or "}" in key else f"zmqpull:{{{key}}}"

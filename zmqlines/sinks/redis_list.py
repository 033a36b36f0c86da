"""Events at the end of a Redis list (RPUSH): Logstash's redis input takes them, and BLPOP."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Callable
from typing import Any

import zmqpush
from zmqlines.ack import RECORD_LASTS_S, Offer
from zmqlines.sinks.contract import Sink, Trouble

SLICE = 1000  # events in one command
FULL_LIST_S = 0.2  # how often to look whether a list has room again


def add_options(option: Callable[..., Any]) -> None:
    """Those of this sink."""
    # fmt: off
    option("--redis", metavar="URL", default="",
           help="push to a list in Redis, such as redis://localhost:6379/0 (needs redis)")
    option("--key", metavar="NAME", default="logstash", help="the list's name (logstash)")
    option("--redis-limit", metavar="N", type=zmqpush.COUNT, default=0,
           help="wait while the list has N elements")
    # fmt: on


def check(options: argparse.Namespace) -> None:
    """Raises ValueError where the options do not fit together."""
    if options.redis_limit and not options.redis:
        raise ValueError("--redis-limit is for --redis")
    if options.redis:
        try:
            import redis.asyncio  # noqa: F401
        except ImportError as missing:
            raise ValueError(f"--redis: {missing}; install redis") from None


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

    # next_record() for one offer, and its events, in one step: KEYS are the list and the shipper's
    # record; ARGV number, first, seconds to live, events. Lua cannot unpack too many at once.
    KEEP = f"""
        local number, first = tonumber(ARGV[1]), tonumber(ARGV[2])
        local record = tonumber(redis.call('GET', KEYS[2]) or -1)
        if number == 0 then return {{math.max(record, 0), 0}} end
        if record < first - 1 then record = first - 1 end
        local is_new = 0
        if number == record + 1 then
            for start = 4, #ARGV, {SLICE} do
                local last = math.min(start + {SLICE} - 1, #ARGV)
                redis.call('RPUSH', KEYS[1], unpack(ARGV, start, last))
            end
            record, is_new = number, 1
        end
        redis.call('SET', KEYS[2], string.format('%.0f', record), 'EX', ARGV[3])
        return {{record, is_new}}
    """

    def __init__(self, url: str, key: str, limit: int) -> None:
        """While the list has `limit` elements (0: any number) it takes none. Raises ValueError."""
        import redis.asyncio

        self._error = redis.RedisError
        self._client = redis.asyncio.Redis.from_url(url)
        self._keep = self._client.register_script(self.KEEP)
        pool: Any = self._client.connection_pool
        try:
            pool.make_connection()  # to know now what is wrong, and not at the first event
        except (TypeError, redis.RedisError) as error:
            raise ValueError(error) from None
        self._key = key
        self._limit = limit
        self._pushed = 0  # of the events to write
        self.name = f"{re.sub('//.*@', '//', url)} {key}"

    async def write(self, events: list[bytes]) -> None:
        """Push `events`; after Trouble, those that were not answered for."""
        try:
            while self._pushed < len(events):
                await self._until_room()
                some = events[self._pushed : self._pushed + SLICE]
                await self._client.rpush(self._key, *some)
                self._pushed += len(some)
        except (self._error, OSError) as error:
            raise Trouble(str(error)) from None
        self._pushed = 0

    async def _until_room(self) -> None:
        while self._limit and await self._client.llen(self._key) >= self._limit:
            await asyncio.sleep(FULL_LIST_S)

    async def keep(self, offers: list[Offer]) -> dict[bytes, int]:
        """Push what is new in `offers`; returns the shippers' records, which are in Redis, too."""
        try:
            await self._until_room()
            async with self._client.pipeline(transaction=False) as pipeline:
                for offer in offers:
                    names = [self._key, self._record_of(offer.shipper)]
                    place = [offer.number, offer.first, RECORD_LASTS_S]
                    await self._keep(keys=names, args=[*place, *offer.events], client=pipeline)
                answers = await pipeline.execute()
        except (self._error, OSError) as error:
            raise Trouble(str(error)) from None
        records = {}
        for offer, (record, is_new) in zip(offers, answers):
            records[offer.shipper] = record
            offer.is_new = offer.is_new or bool(is_new)
        return records

    async def forget(self, shippers: list[bytes]) -> None:
        """Keep no record of them."""
        try:
            await self._client.delete(*map(self._record_of, shippers))
        except (self._error, OSError) as error:
            raise Trouble(str(error)) from None

    def _record_of(self, shipper: bytes) -> str:
        """The name of the key with its record."""
        return f"zmqpull:{self._key}:{shipper.hex()}"

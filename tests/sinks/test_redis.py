"""A Redis list: full, gone and back, or no list at all."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.ack import ALICE, BOB, OurShippers
from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.events import wrapped
from tests.support.net import free_endpoint
from tests.support.places import InRedis
from tests.support.pulling import Pull, Push, numbered, send
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, wait_until
from zmqlines.ack import Offer
from zmqlines.sinks.contract import Trouble
from zmqlines.sinks.redis_list import RedisList, records_key

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


@pytest.mark.long
def test_a_redis_list_has_an_event_an_element_in_order(
    redis_server: RedisServer, pull: Pull, ship: Ship, push: Push
) -> None:
    """The shape that Logstash's redis input takes from a list: an object an element."""
    redis_server.start()
    puller = pull("--redis", redis_server.url, "-n", "2003")
    shipper = ship("-c", puller.endpoint, "--batch", "500")
    shipper.finish(b"".join(b"%d\n" % number for number in range(2000)))
    wait_until(lambda: len(redis_server.list()) == 2000, "the list has them")
    push(puller.endpoint).send_multipart([b'{"a":1,\n"b":2}', b"not \xff", b"[{}]"])
    assert puller.end() == ["2003 events written"]
    form = b'{"message":"%d","type":"syslog","@pid":%d}'
    elements = redis_server.list()
    assert elements[:2000] == [form % (number, shipper.pid) for number in range(2000)]
    assert elements[2000:2003:2] == [b'{"a":1, "b":2}', b"{}"]
    assert strict_json(elements[2001]) == wrapped(b"not \xff")


@pytest.mark.long
def test_nothing_is_missing_after_redis_was_killed_and_started_again(
    redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    redis_server.start(appendfsync="always")
    count = 60_000
    puller = pull("--redis", redis_server.url, "--key", "a key", "-n", str(count))
    sender = push(puller.endpoint)
    streaming = threading.Thread(target=send, args=(sender, numbered(count)))
    streaming.start()
    wait_until(lambda: redis_server.client.llen("a key") > 2000, "events are there")
    redis_server.kill()
    trouble = puller.wait_for_word("the senders have to wait")
    redis_server.start(appendfsync="always")
    streaming.join()
    assert puller.end() == [
        trouble,
        f"{redis_server.url} a key: going on",
        f"{count} events written",
    ]
    elements = redis_server.list("a key")
    assert list(dict.fromkeys(elements)) == numbered(count)
    assert len(elements) == count, "what Redis could not answer for is not pushed twice"


@pytest.mark.long
def test_redis_may_come_later(redis_server: RedisServer, pull: Pull, push: Push) -> None:
    puller = pull("--redis", redis_server.url, "-n", "5")
    send(push(puller.endpoint), numbered(5))
    trouble = puller.wait_for_word("the senders have to wait")
    assert trouble.startswith(f"{redis_server.url} logstash: ")
    redis_server.start()
    assert puller.end() == [
        trouble,
        f"{redis_server.url} logstash: going on",
        "5 events written",
    ]
    assert redis_server.list() == numbered(5)


@pytest.mark.long
def test_a_full_list_holds_back_until_a_worker_takes_and_nothing_is_said(
    redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    redis_server.start()
    redis_server.client.rpush("logstash", "first")
    puller = pull("--redis", redis_server.url, "--redis-limit", "1", "-n", "2")
    sender = push(puller.endpoint)
    waiting = b"first"
    for event in numbered(2):
        sender.send(event)
        wait_until(lambda: puller.counters()[2] == 1, "it has the event in hand")
        redis_server.wait_for_calls("llen", 3)  # it has looked three times
        assert puller.counters()[2] == 1
        assert redis_server.list() == [waiting]
        assert redis_server.client.blpop("logstash", DEADLINE_S) == (b"logstash", waiting)
        wait_until(redis_server.list, "there is room for it")
        waiting = event
    assert redis_server.list() == [waiting]
    assert [line for line in puller.end() if " in hand" not in line] == ["2 events written"]


@pytest.mark.long
def test_a_key_that_is_no_list_is_said_and_waited_for(
    redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    redis_server.start()
    redis_server.client.set("logstash", "a string")
    puller = pull("--redis", redis_server.url, "-n", "1")
    push(puller.endpoint).send(b"{}")
    assert "wrong kind of value" in puller.wait_for_word("the senders have to wait")
    redis_server.client.delete("logstash")
    assert len(puller.end()) == 3
    assert redis_server.list() == [b"{}"]


def test_the_password_of_the_url_is_not_told() -> None:
    async def name() -> str:  # redis-py wants a running loop
        return RedisList("redis://me:secret@host:1/2", "key", 0).name

    assert asyncio.run(name()) == "redis://host:1/2 key"


@pytest.mark.long
def test_redis_forgets_a_shipper_a_month_after_it_was_there_last(
    tmp_path: Path, redis_url: str, our_shipper: OurShippers, pull_ack: Ship
) -> None:

    endpoint, place = free_endpoint(), InRedis(redis_url, tmp_path.name)
    pull_ack(endpoint, *place.options)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 5, 5, b'{"message":"before"}')
    assert shipper.answer() == (ALICE, 5)
    client: Any = redis.Redis.from_url(redis_url)
    records = records_key(tmp_path.name)
    shipper.offer(ALICE, 6, 5, b'{"message":"between"}')
    assert shipper.answer() == (ALICE, 6)
    assert client.hget(records, ALICE.hex()) == b"6 0"
    client.zincrby(f"{records}:seen", -31 * 86400, ALICE.hex())
    shipper.offer(BOB, 1, 1, b'{"message":"meanwhile"}')
    assert shipper.answer() == (BOB, 1)
    assert not client.hexists(records, ALICE.hex())
    assert client.zrange(f"{records}:seen", 0, -1) == [BOB.hex().encode()]
    shipper.offer(ALICE, 7, 7, b'{"message":"after"}')
    assert shipper.answer() == (ALICE, 7)
    assert place.messages() == ["before", "between", "meanwhile", "after"]


@pytest.mark.long
def test_a_clock_that_jumps_a_month_forgets_no_shipper(
    tmp_path: Path, redis_url: str, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    """It is that of Redis. A jump counts as a day at most; so does one back and forth."""
    endpoint, place = free_endpoint(), InRedis(redis_url, tmp_path.name)
    pull_ack(endpoint, *place.options)
    client: Any = redis.Redis.from_url(redis_url)
    records = records_key(tmp_path.name)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, b'{"message":"once"}')
    assert shipper.answer() == (ALICE, 1)
    for number, days in enumerate((31, -31, 31, -310), 1):
        client.hincrby(records, "at", -days * 86400)  # from before, that is what the clock did
        shipper.offer(BOB, number, 1, b'{"message":"meanwhile"}')
        assert shipper.answer() == (BOB, number)
    shipper.offer(ALICE, 1, 1, b'{"message":"once"}')
    assert shipper.answer() == (ALICE, 1)
    assert place.messages().count("once") == 1
    for key in (records, f"{records}:seen"):
        assert client.ttl(key) == -1, "what does not expire is not evicted first"


def test_failed_attempts_at_redis_leave_no_connections_open(redis_server: RedisServer) -> None:
    """redis-py makes 100 at most. Its pipeline kept the one on which it had looked for a script."""
    redis_server.start()
    admin = redis_server.client

    async def fail_then_keep() -> dict[bytes, int]:
        sink = RedisList(f"{redis_server.url}?max_connections=1", "books", 0)
        offer = Offer(b"peer", b"shipper".ljust(16), 1, 1, [b"{}"])
        admin.acl_setuser("default", enabled=True, commands=["-eval", "-evalsha"])
        with pytest.raises(Trouble, match="no permissions"):
            await sink.keep([offer])
        admin.acl_setuser("default", enabled=True, commands=["+eval", "+evalsha"])
        records = await sink.keep([offer])
        await sink._client.connection_pool.disconnect()
        return records

    assert asyncio.run(fail_then_keep()) == {b"shipper".ljust(16): 1}

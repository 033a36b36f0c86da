"""Each event is in Redis once: however slow it is, full, demoted, evicting, or in a cluster."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sinks.helpers import stopped
from tests.support.ack import ALICE, OurShippers
from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.ending import end
from tests.support.net import free_endpoint, wait_for_connections
from tests.support.pulling import Pull, Push, lines_in, numbered, send
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, wait_until
from zmqlines.sinks.redis_list import records_key

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


HASTY = "?socket_timeout=0.3"  # so long Redis may take to answer


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "other")
    yield server
    server.kill()


def refuses(server: RedisServer, refuse: bool) -> None:
    """Have it refuse all writing for want of memory, or not."""
    server.client.config_set("maxmemory", 1 if refuse else 0)


def clients(server: RedisServer) -> set[str]:
    """The connections to it that are not ours."""
    ours = str(server.client.client_id())
    return {each["id"] for each in server.client.client_list()} - {ours}


# ---- slow, and away ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [11, 3000])
def test_a_redis_that_is_stopped_gets_no_event_twice_and_that_is_told(
    count: int, redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    """What waits in its socket it will do, though nobody waits for the answer any more."""
    redis_server.start()
    puller = pull("--redis", redis_server.url + HASTY)
    sender = push(puller.endpoint)
    send(sender, numbered(1))
    wait_until(lambda: puller.counters()[0] == 1, "it is connected")
    with stopped(redis_server):
        send(sender, numbered(count - 1, 1))
        assert "imeout" in puller.wait_for_word("the senders have to wait")
        wait_for_connections(redis_server.port, 2)  # it tries again and again
    wait_until(lambda: puller.counters()[0] == count, "all is written")
    assert redis_server.list() == numbered(count)
    assert puller.end(signal.SIGTERM)[-1] == f"{count} events written"


def test_with_ack_a_redis_that_is_stopped_gets_no_event_twice_and_all_are_counted(
    redis_server: RedisServer, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    redis_server.start()
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, "--redis", redis_server.url + HASTY)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, b'{"n":1}')
    assert shipper.answer() == (ALICE, 1)
    with stopped(redis_server):
        for number in range(2, 20):
            shipper.offer(ALICE, number, 1, b'{"n":%d}' % number)
        assert "the senders have to wait" in collector.read_stderr_line()
        wait_for_connections(redis_server.port, 2)  # it tries again and again
    shipper.answers((ALICE, 19))
    assert redis_server.list() == [b'{"n":%d}' % number for number in range(1, 20)]
    assert end(collector).splitlines()[-1] == "zmqpull.py: 19 events written"


def test_all_are_counted_that_a_half_failed_pipeline_brought(
    redis_server: RedisServer, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    """Redis has no memory left in the midst of it."""
    redis_server.start()
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, "--redis", redis_server.url)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, b"{}")
    assert shipper.answer() == (ALICE, 1)
    used = redis_server.client.info("memory")["used_memory"]
    redis_server.client.config_set("maxmemory", used + 2_000_000)
    event = b'{"a":"%b"}' % (b"x" * 200_000)
    for number in range(2, 30):
        shipper.offer(ALICE, number, 1, event)
    assert "maxmemory" in collector.read_stderr_line()
    assert 1 < len(redis_server.list()) < 29
    refuses(redis_server, refuse=False)
    shipper.answers((ALICE, 29))
    assert len(redis_server.list()) == 29
    assert end(collector).splitlines()[-1] == "zmqpull.py: 29 events written"


def test_a_redis_that_cannot_be_reached_is_told_before_the_first_event(
    redis_server: RedisServer, pull: Pull
) -> None:
    puller = pull("--redis", redis_server.url)
    trouble = puller.wait_for_word("the senders have to wait")
    assert trouble.startswith(f"{redis_server.url} logstash: ")
    redis_server.start()
    going_on = puller.wait_for_word("going on")
    assert puller.end(signal.SIGTERM) == [trouble, going_on, "0 events written"]


@pytest.mark.parametrize("delay_s", [0.0, 0.3, 0.6, 0.95, 1.0, 1.05])
def test_a_signal_ends_it_in_time_while_redis_refuses(
    delay_s: float, redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    """Whatever it is doing then: redis-py swallows a cancellation before Python 3.12."""
    redis_server.start()
    puller = pull("--redis", redis_server.url)
    refuses(redis_server, refuse=True)
    push(puller.endpoint).send(b"{}")
    puller.wait_for_word("the senders have to wait")
    time.sleep(delay_s)
    begin = time.monotonic()
    puller.signal(signal.SIGTERM)
    assert puller.process.wait(DEADLINE_S) == 1
    assert time.monotonic() - begin < 5
    given_up, written = puller.said()[-2:]
    assert given_up.startswith("gave up at most 1 events ")
    assert written == "0 events written"


def test_a_collector_that_has_ended_leaves_no_record_of_its_own(
    redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    """Else each run from cron would leave one."""
    redis_server.start()
    records = records_key("logstash")
    puller = pull("--redis", redis_server.url)
    push(puller.endpoint).send(b"{}")
    wait_until(lambda: redis_server.client.zcard(f"{records}:seen") == 1, "it has a record")
    puller.end(signal.SIGTERM)
    assert redis_server.client.zcard(f"{records}:seen") == 0
    assert set(redis_server.client.hkeys(records)) == {b"at", b"age"}


def test_a_redis_that_is_stopped_does_not_keep_it_from_ending(
    redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    redis_server.start()
    puller = pull("--redis", redis_server.url)
    push(puller.endpoint).send(b"{}")
    wait_until(lambda: puller.counters()[0] == 1, "it is written")
    with stopped(redis_server):
        begin = time.monotonic()
        assert puller.end(signal.SIGTERM)[-1] == "1 events written"
        assert time.monotonic() - begin < 2


# ---- another one ------------------------------------------------------------------------------


def test_a_read_only_replica_is_left_for_whoever_is_at_the_name_next(
    redis_server: RedisServer, other_server: RedisServer, pull: Pull, push: Push
) -> None:
    redis_server.start()
    other_server.start()
    puller = pull("--redis", redis_server.url, "-n", "2")
    sender = push(puller.endpoint)
    sender.send(b'{"n":1}')
    wait_until(redis_server.list, "it is written")
    before = clients(redis_server)
    redis_server.client.replicaof(other_server.host, other_server.port)
    sender.send(b'{"n":2}')
    assert "read only replica" in puller.wait_for_word("the senders have to wait")
    wait_until(lambda: not clients(redis_server) & before, "the old connection is closed")
    redis_server.client.replicaof("NO", "ONE")
    assert puller.end()[-1] == "2 events written"
    assert redis_server.list()[-1] == b'{"n":2}'


def is_up(server: RedisServer) -> bool:
    """Whether it is a cluster that takes something."""
    return bool(server.client.cluster("INFO")["cluster_state"] == "ok")


@pytest.mark.parametrize("key", ["logstash", "{tag}list", "two}{", "{}", "a{b}c{d}", "{half"])
def test_in_a_cluster_records_are_in_the_slot_of_their_list(
    key: str, redis_server: RedisServer, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    redis_server.start(cluster_enabled="yes")
    redis_server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    wait_until(lambda: is_up(redis_server), "the cluster is up")
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, "--redis", redis_server.url, "--key", key)
    our_shipper(endpoint).offer(ALICE, 1, 1, b"{}")
    if key in ("two}{", "{}"):
        told = collector.read_stderr_line()
        assert "in Redis Cluster a --key with braces has to be as in {name}" in told
    else:
        wait_until(lambda: redis_server.list(key) == [b"{}"], "it is written")
        assert end(collector) == "zmqpull.py: 1 events written\n"


# ---- full, and evicting -----------------------------------------------------------------------


def check_cap(redis_server: RedisServer, limit: int, expected: list[bytes]) -> None:
    """Take all, as workers do, and see that there are never more than `limit`."""
    taken: list[bytes] = []
    while len(taken) < len(expected):
        wait_until(redis_server.list, "there are more")
        elements = redis_server.list()
        assert len(elements) <= limit
        taken += redis_server.client.lpop("logstash", len(elements))
    assert taken == expected


def test_the_limit_is_the_most_that_the_list_gets(
    redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    redis_server.start()
    puller = pull("--redis", redis_server.url, "--redis-limit", "100")
    events = numbered(550)
    send(push(puller.endpoint), [b"[" + b",".join(events) + b"]"])
    check_cap(redis_server, 100, events)
    assert puller.end(signal.SIGTERM) == ["550 events written"]
    assert redis_server.list() == []


def test_with_ack_the_limit_is_the_most_that_the_list_gets_and_a_chunk_comes_in_parts(
    redis_server: RedisServer, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    """It is acknowledged when all of it is there; who takes over goes on within it."""
    redis_server.start()
    events = numbered(1200)
    chunks = [b"[" + b",".join(part) + b"]" for part in (events[:550], events[550:])]
    collectors = []
    for _ in range(2):
        endpoint = free_endpoint()
        arguments = ("--redis", redis_server.url, "--redis-limit", "100")
        collectors.append(pull_ack(endpoint, *arguments))
        shipper = our_shipper(endpoint)
        for number, chunk in enumerate(chunks, 1):
            shipper.offer(ALICE, number, 1, chunk)
        wait_until(lambda: len(redis_server.list()) == 100, "it is full")
        assert not shipper.socket.poll(100)
    collectors[0].signal(signal.SIGKILL)
    check_cap(redis_server, 100, events)
    shipper.answers((ALICE, 2))
    assert redis_server.list() == []
    assert redis_server.client.hget(records_key("logstash"), ALICE.hex()) == b"2 0"


def test_records_are_not_evicted_where_only_what_expires_is(
    redis_server: RedisServer, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    redis_server.start(maxmemory_policy="volatile-lru")
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, "--redis", redis_server.url)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, b"{}")
    assert shipper.answer() == (ALICE, 1)
    refuses(redis_server, refuse=True)
    shipper.offer(ALICE, 2, 1, b"{}")
    assert "maxmemory" in collector.read_stderr_line()
    refuses(redis_server, refuse=False)
    shipper.answers((ALICE, 2))
    shipper.offer(ALICE, 1, 1, b"{}")
    assert shipper.answer() == (ALICE, 2)
    assert redis_server.list() == [b"{}"] * 2


def test_a_policy_that_evicts_everything_is_told_at_the_start(
    redis_server: RedisServer, pull: Pull
) -> None:
    redis_server.start(maxmemory="100mb", maxmemory_policy="allkeys-lru")
    puller = pull("--redis", redis_server.url)
    assert "maxmemory-policy allkeys-lru lets Redis drop" in puller.wait_for_word("noeviction")
    assert len(puller.end(signal.SIGTERM)) == 2


def test_who_may_not_ask_how_redis_is_configured_can_write(
    redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    redis_server.start()
    redis_server.client.acl_setuser("default", enabled=True, commands=["-config", "-info"])
    puller = pull("--redis", redis_server.url, "-n", "1")
    push(puller.endpoint).send(b"{}")
    assert puller.end() == ["1 events written"]
    assert redis_server.list() == [b"{}"]


# ---- refused for ever -------------------------------------------------------------------------


LARGE = b'{"a":"%b"}' % (b"x" * 1_100_000)
WHY = "Redis takes 1048576 bytes, see its proto-max-bulk-len"


def test_an_event_that_redis_will_never_take_holds_back_until_it_does_and_that_is_told(
    redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    redis_server.start(proto_max_bulk_len="1mb")
    puller = pull("--redis", redis_server.url, "-n", "3")
    send(push(puller.endpoint), [b'{"n":1}', LARGE, b'{"n":2}'])
    told = puller.wait_for_word("the senders have to wait")
    start = LARGE[:60].decode()
    assert told == (
        f"{redis_server.url} logstash: an event of {len(LARGE)} bytes ({start}...) can never be "
        f"written: {WHY}; --dead-letter FILE would put it away, until then all waits; "
        "the senders have to wait"
    )
    redis_server.client.config_set("proto-max-bulk-len", "2mb")
    assert puller.end()[-1] == "3 events written"
    assert redis_server.list() == [b'{"n":1}', LARGE, b'{"n":2}']


def check_letters(path: Path, sink: str) -> None:
    letters: list[Any] = [strict_json(line) for line in lines_in(path)]
    assert letters == [{"reason": WHY, "sink": sink, "event": json.loads(LARGE)}]


def test_an_event_that_redis_will_never_take_is_put_away_and_all_others_go_on(
    redis_server: RedisServer, pull: Pull, push: Push, tmp_path: Path
) -> None:
    redis_server.start(proto_max_bulk_len="1mb")
    letters, file = tmp_path / "letters", tmp_path / "file"
    options = ["--redis", redis_server.url, "-o", str(file), "--dead-letter", str(letters)]
    puller = pull(*options, "-n", "3")
    send(push(puller.endpoint), [b'{"n":1}', LARGE, b'{"n":2}'])
    told, written = puller.end()
    assert told.endswith(f"{WHY}; it is in {letters}")
    assert written == "3 events written"
    assert redis_server.list() == [b'{"n":1}', b'{"n":2}']
    assert lines_in(file) == [b'{"n":1}', LARGE, b'{"n":2}']
    check_letters(letters, f"{redis_server.url} logstash")


def test_an_event_is_put_away_also_where_redis_may_not_be_asked_what_it_takes(
    redis_server: RedisServer, pull: Pull, push: Push
) -> None:
    redis_server.start(proto_max_bulk_len="1mb")
    redis_server.client.acl_setuser("default", enabled=True, commands=["-config"])
    puller = pull("--redis", redis_server.url, "--dead-letter", "-", "-n", "3")
    send(push(puller.endpoint), [b'{"n":1}', LARGE, b'{"n":2}'])
    (letter,) = puller.read(1)
    assert strict_json(letter)["event"] == json.loads(LARGE)
    assert puller.end()[-1] == "3 events written"
    assert redis_server.list() == [b'{"n":1}', b'{"n":2}']


def test_a_chunk_is_answered_when_what_is_refused_is_in_the_dead_letters(
    redis_server: RedisServer, our_shipper: OurShippers, pull_ack: Ship, tmp_path: Path
) -> None:
    redis_server.start(proto_max_bulk_len="1mb")
    letters, endpoint = tmp_path / "letters", free_endpoint()
    pull_ack(endpoint, "--redis", redis_server.url, "--dead-letter", str(letters))
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, b'[{"n":1},' + LARGE + b',{"n":2}]')
    shipper.offer(ALICE, 2, 1, b'{"n":3}')
    shipper.answers((ALICE, 2))
    assert redis_server.list() == [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    check_letters(letters, f"{redis_server.url} logstash")


def test_nothing_is_answered_while_the_dead_letters_cannot_be_written(
    redis_server: RedisServer, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    redis_server.start(proto_max_bulk_len="1mb")
    endpoint = free_endpoint()
    options = ["--redis", redis_server.url, "--dead-letter", "/dev/full"]
    collector = pull_ack(endpoint, *options)
    shipper = our_shipper(endpoint)
    shipper.offer(ALICE, 1, 1, LARGE)
    assert "--dead-letter /dev/full: No space left" in collector.read_stderr_line()
    assert not shipper.socket.poll(300)
    assert redis_server.list() == []

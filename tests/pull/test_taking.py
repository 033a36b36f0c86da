"""What comes is taken, from every kind of sender and endpoint, and counted."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
from pathlib import Path

import pytest

from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.endpoints import address_of
from tests.support.events import TAG, read_json, reference, wrapped
from tests.support.net import free_endpoint
from tests.support.pulling import (
    ANY_PORT,
    MEBIBYTE,
    Pull,
    Push,
    lines_in,
    numbered,
    read_counters,
    send,
)
from tests.support.rsyslog import Rsyslogd
from tests.support.waiting import wait_until

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version


@pytest.mark.parametrize("batch", [1, 7])
def test_what_zmqpush_sends_comes_out_in_order(batch: int, pull: Pull, ship: Ship) -> None:
    puller = pull("-n", "1000")
    shipper = ship("-c", puller.endpoint, "--batch", str(batch))
    shipper.finish(b"".join(b"line \xff %d\n" % number for number in range(1000)))
    form = b'{"message":"line \\\\xff %d","type":"syslog","@pid":%d}'
    assert puller.read(1000) == [form % (number, shipper.pid) for number in range(1000)]
    assert puller.end() == ["1000 events written"]


def test_each_frame_of_a_message_is_for_itself(pull: Pull, push: Push) -> None:
    puller = pull("-n", "6")
    push(puller.endpoint).send_multipart(
        [b"", b'{"a":1}', b"[]", b'[{"b":2},{"c":3}]', b"x", b"{}"]
    )
    assert [strict_json(line) for line in puller.read(6)] == [
        *(wrapped(b""), {"a": 1}, {"b": 2}, {"c": 3}, wrapped(b"x"), {}),
    ]
    puller.end()


@pytest.mark.long
def test_what_the_zeromq_module_of_rsyslog_sends_comes_out(pull: Pull, tmp_path: Path) -> None:
    puller = pull("-n", "100")
    rsyslogd = Rsyslogd(
        tmp_path / "rsyslogd",
        f"""\
module(load="omczmq")
template(name="event" type="list" option.jsonf="on") {{
    property(outname="message" name="msg" format="jsonf")
    property(outname="host" name="hostname" format="jsonf")
}}
template(name="text" type="string" string="%msg%")
action(type="omczmq" endpoints=">{puller.endpoint}" sockType="PUSH" template="event")
action(type="omczmq" endpoints=">{puller.endpoint}" sockType="PUSH" template="text")
""",
    )
    try:
        rsyslogd.start()
        rsyslogd.log(*(b'<13>unit: say "%d"' % number for number in range(50)))
        events = [strict_json(line) for line in puller.read(100)]
    finally:
        rsyslogd.close()
    texts = [f' say "{number}"' for number in range(50)]
    host = next(event["host"] for event in events if "host" in event)
    assert [event for event in events if "tags" not in event] == [
        {"message": text, "host": host} for text in texts
    ]
    assert [event for event in events if "tags" in event] == [wrapped(t.encode()) for t in texts]
    assert puller.end() == ["100 events written"]


# ---- endpoints --------------------------------------------------------------------------------


def test_it_may_connect_to_a_shipper_that_binds_and_that_may_come_later(
    pull: Pull, ship: Ship
) -> None:
    endpoint = free_endpoint()
    puller = pull("--connect", endpoint, "-n", "3")
    shipper = ship("--bind", endpoint)
    assert shipper.finish(b"a\nb\nc\n").processed == 3
    assert [strict_json(line)["message"] for line in puller.read(3)] == ["a", "b", "c"]
    assert puller.end() == ["3 events written"]


def test_several_endpoints_of_every_kind_are_collected_from_at_once(
    pull: Pull, ship: Ship, push: Push, tmp_path: Path
) -> None:
    tcp, ipc = free_endpoint(), f"ipc://{tmp_path}/socket"
    there = [f"ipc://{tmp_path}/shipper", free_endpoint()]
    binds = [word for endpoint in (tcp, ipc, ANY_PORT) for word in ("--bind", endpoint)]
    connects = [word for endpoint in there for word in ("--connect", endpoint)]
    shippers = [ship("-b", endpoint) for endpoint in there]
    puller = pull(*binds, *connects, "-n", "50")
    for number, endpoint in enumerate((tcp, ipc, puller.endpoint)):
        send(push(endpoint), numbered(10, 10 * number))
    for shipper in shippers:
        assert shipper.finish(b"x\n" * 10).processed == 10
    lines = puller.read(50)
    assert sorted(line for line in lines if b"number" in line) == sorted(numbered(30))
    assert len(lines) == 50
    puller.end()


@pytest.mark.parametrize(("here", "there"), [("--bind", "-c"), ("--connect", "-b")])
def test_ipv6_is_collected_from(here: str, there: str, pull: Pull, ship: Ship) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
            endpoint = f"tcp://[::1]:{probe.getsockname()[1]}"
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    puller = pull(here, endpoint, "-n", "1")
    ship(there, endpoint).finish(b"x\n")
    assert strict_json(puller.read(1)[0])["message"] == "x"
    puller.end()


@pytest.mark.long
def test_a_star_is_every_address_in_ipv4_and_ipv6(pull: Pull, ship: Ship) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    puller = pull("--bind", "tcp://*:*", "-n", "2")
    port = puller.wait_until_bound().rpartition(":")[2]
    for host in ("127.0.0.1", "[::1]"):
        ship("-c", f"tcp://{host}:{port}").finish(b"x\n")
    assert len(puller.read(2)) == 2
    puller.end()


@pytest.mark.long
def test_the_place_of_one_that_was_killed_is_taken(pull: Pull, push: Push, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/socket"
    for serial in range(2):
        puller = pull("--bind", endpoint)
        send(push(endpoint), numbered(1, serial))
        assert puller.read(1) == numbered(1, serial)
        puller.stop()


# ---- counters ---------------------------------------------------------------------------------


def test_sigusr1_asks_for_the_counters_at_once(pull: Pull, push: Push) -> None:
    puller = pull()
    assert puller.counters() == (0, 0, 0)
    sender = push(puller.endpoint)
    sender.send(b'[{"a":1},{}]')
    assert puller.read(2) == [b'{"a":1}', b"{}"]
    wait_until(lambda: puller.counters() == (2, 9, 0), "both are counted")
    sender.send(b'{"a":"%b"}' % (b"x" * MEBIBYTE))
    wait_until(lambda: puller.counters() == (2, 9, 1), "one is not written to its end")


def test_stats_is_a_line_of_counters_again_and_again(pull: Pull, push: Push) -> None:
    puller = pull("--stats", "0.05")
    wait_until(lambda: len(puller.said()) > 3, "it tells its counters")
    push(puller.endpoint).send(b"{}")
    wait_until(lambda: read_counters(puller.said()[-1]) == (1, 2, 0), "it counts")
    *lines, summary = puller.end(signal.SIGINT)
    assert summary == "1 events written"
    counted = [read_counters(line) for line in lines]
    assert counted == sorted(counted)


# ---- garbage ----------------------------------------------------------------------------------


def test_random_frames_are_messages_and_it_goes_on(pull: Pull, push: Push) -> None:
    rng = random.Random(4)
    snippets = [b"{", b"}", b"[", b"]", b",", b'"', b'{"a":1}', b"{}", b"\n", b"\xff", b"text"]
    messages = [
        [
            rng.choice(
                [
                    rng.randbytes(rng.randrange(2000)),
                    b"".join(rng.choices(snippets, k=rng.randrange(8))),
                ]
            )
            for _ in range(rng.randrange(1, 20))
        ]
        for _ in range(100)
    ]
    expected = [value for message in messages for frame in message for value in reference(frame)]
    puller = pull("-n", str(len(expected) + 1))
    sender = push(puller.endpoint)
    for message in messages:
        sender.send_multipart(message)
    sender.send(b'{"last":1}')
    events = [read_json(line.decode()) for line in puller.read(len(expected) + 1)]
    assert events == [*expected, {"last": "1"}]
    puller.end()


@pytest.mark.long
def test_frames_of_50_megabytes_come_out(pull: Pull, push: Push, tmp_path: Path) -> None:
    puller = pull("-o", str(tmp_path / "file"), "-n", "3")
    text = b"x" * 50 * MEBIBYTE
    sender = push(puller.endpoint)
    send(sender, [b'{"a":"%b"}' % text, text, b"{}"])
    assert puller.end() == ["3 events written"]
    whole, message, last = lines_in(tmp_path / "file")
    assert whole == b'{"a":"%b"}' % text
    assert strict_json(message) == wrapped(text)
    assert last == b"{}"


@pytest.mark.long
def test_connections_that_say_nothing_or_nonsense_do_not_harm(pull: Pull, push: Push) -> None:
    puller = pull()
    rng = random.Random(4)
    with contextlib.ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(socket.create_connection(address_of(puller.endpoint)))
            if number % 2:
                with contextlib.suppress(OSError):  # it has had enough of that
                    connection.sendall(rng.randbytes(rng.randrange(500)))
        send(push(puller.endpoint), numbered(1000))
        lines: list[bytes] = []
        while lines.count(b'{"number":999,"text":""}') < 1:
            lines += puller.read(1)
        puller.end(signal.SIGTERM)
    # What does not begin as today's protocol does may pass for that of ZeroMQ 2, which had no
    # greeting; it brings messages of nonsense.
    assert [line for line in lines if TAG[0].encode() not in line] == numbered(1000)

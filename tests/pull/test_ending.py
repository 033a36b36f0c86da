"""How a collector ends: when it has enough, by a signal, with somebody reading or not."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.ack import ALICE, OurShippers
from tests.support.aliases import Ship
from tests.support.net import free_endpoint
from tests.support.places import Place
from tests.support.proc import wait_until_taken
from tests.support.programs import wait_for_first_lines
from tests.support.pulling import (
    ANY_PORT,
    LARGE,
    MEBIBYTE,
    PROGRAM,
    Pull,
    Push,
    numbered,
    send,
    send_until_held_back,
)
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE_S, wait_until


def test_n_is_the_exact_number_of_single_events(pull: Pull, push: Push) -> None:
    puller = pull("-n", "2500")
    send(push(puller.endpoint), numbered(3000))
    assert puller.read(2500) == numbered(2500)
    assert puller.end() == ["2500 events written"]
    assert puller.finish().stdout == ""


def test_n_is_the_exact_number_of_events_in_arrays(pull: Pull, push: Push) -> None:
    puller = pull("-n", "1000")
    events = numbered(1200)
    arrays = [b"[" + b",".join(events[at : at + 7]) + b"]" for at in range(0, 1200, 7)]
    send(push(puller.endpoint), arrays)
    assert puller.read(1000) == events[:1000]
    assert puller.end() == ["1000 events written"]
    assert puller.finish().stdout == ""


CHUNKS = [b"[" + b",".join(numbered(3, start)) + b"]" for start in (0, 3, 6)]


def test_with_ack_n_is_exact_and_the_chunk_that_it_cuts_is_left_to_its_shipper(
    place: Place, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *place.options, "-n", "7")
    shipper = our_shipper(endpoint)
    for number, chunk in enumerate(CHUNKS, 1):
        shipper.offer(ALICE, number, 1, chunk)
    shipper.answers((ALICE, 2))
    assert collector.finish().stderr == "zmqpull.py: 7 events written\n"
    assert place.events() == numbered(7)
    while shipper.socket.poll(200):
        assert shipper.answer() == (ALICE, 2)
    collector = pull_ack(endpoint, *place.options, "-n", "3")
    shipper.offer(ALICE, 3, 3, CHUNKS[2])
    shipper.answers((ALICE, 3))
    assert collector.finish().stderr == "zmqpull.py: 3 events written\n"
    assert place.events() == [*numbered(7), *numbered(3, 6)]


def test_with_ack_a_repeated_chunk_does_not_count_towards_n(
    place: Place, our_shipper: OurShippers, pull_ack: Ship
) -> None:
    endpoint = free_endpoint()
    collector = pull_ack(endpoint, *place.options, "-n", "4")
    shipper = our_shipper(endpoint)
    for number in (1, 1, 1, 3, 2):  # 3 comes before its turn
        shipper.offer(ALICE, number, 1, CHUNKS[number - 1])
    assert collector.finish().stderr == "zmqpull.py: 4 events written\n"
    assert place.events() == numbered(4)


# ---- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "quiet"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_ends_it_with_the_count_if_it_is_not_quiet(
    number: signal.Signals, quiet: bool, pull: Pull, push: Push, tmp_path: Path
) -> None:
    puller = pull("-o", str(tmp_path / "file"), *["--quiet"] * quiet)
    send(push(puller.endpoint), numbered(10))
    wait_until(lambda: (tmp_path / "file").read_bytes().count(b"\n") == 10, "all is written")
    begin = time.monotonic()
    assert puller.end(number) == ([] if quiet else ["10 events written"])
    assert time.monotonic() - begin < 1


@pytest.mark.long
def test_a_signal_ends_it_where_events_never_cease_and_nothing_taken_is_lost(
    redis_server: RedisServer, pull: Pull, ship: Ship
) -> None:
    """The sink is slower than the sender: there is always more to take."""
    redis_server.start()
    puller = pull("--redis", redis_server.url)
    with subprocess.Popen(["yes", "x" * 300], stdout=subprocess.PIPE) as yes:
        try:
            ship("-c", puller.endpoint, "--batch", "10", stdin=yes.stdout)
            wait_until(lambda: puller.counters()[0] > 1000, "it is under way")
            begin = time.monotonic()
            puller.signal(signal.SIGTERM)
            status = puller.process.wait(DEADLINE_S)
            assert time.monotonic() - begin < 5
        finally:
            yes.kill()
    said = puller.said()
    assert re.fullmatch(r"\d+ events written", said[-1])
    assert status == 1, "what libzmq has received is lost"
    assert said[-2].startswith("gave up what libzmq held, which it does not tell")
    assert redis_server.client.llen("logstash") == int(said[-1].split()[0])


def test_a_signal_lets_out_what_was_received_if_somebody_reads_it(pull: Pull, push: Push) -> None:
    puller = pull()
    sender = push(puller.endpoint, SNDHWM=10)
    count = send_until_held_back(sender)
    puller.signal(signal.SIGTERM)
    result = puller.finish()
    lines = result.stdout.encode().split(b"\n")[:-1]
    assert result.status == 0
    assert len(lines) >= min(1000, count)  # RCVHWM
    assert lines == numbered(len(lines), size=LARGE)
    assert puller.said() == [f"{len(lines)} events written"]


@pytest.mark.long
def test_sigterm_ends_it_in_time_where_nobody_reads_and_it_says_how_much_it_gave_up(
    pull: Pull, push: Push
) -> None:
    puller = pull()
    send_until_held_back(push(puller.endpoint, SNDHWM=10))
    begin = time.monotonic()
    puller.signal(signal.SIGTERM)
    assert puller.process.wait(DEADLINE_S) == 1
    assert 1.5 < time.monotonic() - begin < 5
    given_up, written = puller.said()
    lost = int(re.fullmatch(r"gave up at most (\d+) events .*libzmq.*", given_up)[1])  # type: ignore[index]
    safe = int(re.fullmatch(r"(\d+) events written", written)[1])  # type: ignore[index]
    assert puller.process.stdout
    whole = puller.process.stdout.read().count(b"\n")
    assert safe <= whole < safe + lost


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_it_at_once(first: signal.Signals, pull: Pull, push: Push) -> None:
    puller = pull()
    push(puller.endpoint).send(b'{"a":"%b"}' % (b"x" * MEBIBYTE))
    wait_until(lambda: puller.counters()[2] == 1, "it has the event in hand")
    begin = time.monotonic()
    puller.signal(first)
    wait_until_taken(puller.pid, first)
    puller.signal(signal.SIGINT)
    assert puller.process.wait(DEADLINE_S) == 1
    assert time.monotonic() - begin < 1.5
    assert puller.said()[-1] == "0 events written"
    assert puller.said()[-2].startswith("gave up at most 1 events ")


def test_ctrl_c_in_the_first_milliseconds_is_no_failure(ship: Ship) -> None:
    """From the first lines of the program on; before them, Python itself is interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        puller = ship("--bind", ANY_PORT, program=PROGRAM)
        wait_for_first_lines(puller)
        puller.signal(signal.SIGHUP)
        puller.signal(signal.SIGUSR1)
        puller.signal(number)
        result = puller.finish()
        assert (result.status, result.stdout) == (0, "")
        lines = result.stderr.split("\n")
        assert [line[:10] for line in lines] == ["zmqpull.py"] * (len(lines) - 1) + [""]
        assert lines[-2] == "zmqpull.py: 0 events written"

"""Where lines go: one or several collectors, connected or bound to, by TCP, IPC, IPv6, a name."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from tests.push.peers import PullFrom, bound
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.lines import lines, text
from tests.support.proc import wait_until_asleep, wait_until_taken, wakeups
from tests.support.programs import Shipper, wait_until_connected, wait_until_read
from tests.support.running import python_by
from tests.support.waiting import wait_until

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

Collect = Callable[..., Collector]


class Share:
    """What one of several collectors gets."""

    def __init__(self, has_some: Callable[[], bool], take: Callable[[], bytes]) -> None:
        self.has_some = has_some
        self._take = take
        self.lines: list[bytes] = []

    def take(self) -> None:
        line = self._take()
        if line:
            self.lines.append(line)


def share_out(shipper: Shipper, lines: list[bytes], shares: list[Share]) -> None:
    """Ship `lines` when each collector has had an empty one, which shows that it is there."""

    def all_have_some() -> bool:
        shipper.write(b"\n")
        return all(share.has_some() for share in shares)

    wait_until(all_have_some, "all are there")
    shipper.write(text(lines))

    def all_have_come() -> bool:
        for share in shares:
            while share.has_some():
                share.take()
        return sum(len(share.lines) for share in shares) >= len(lines)

    wait_until(all_have_come, "all lines")


def share_of(collector: Collector) -> Share:
    return Share(lambda: not collector.is_silent(1), lambda: collector.receive(1)[0])


@pytest.mark.long
def test_several_collectors_share_the_load(collect: Collect, ship: Ship) -> None:
    collectors = [collect(), collect(), collect()]
    arguments = [word for collector in collectors for word in ("-c", collector.endpoint)]
    shipper = ship(*arguments, "--format", "raw")
    expected = lines(1500)
    shares = [share_of(collector) for collector in collectors]
    share_out(shipper, expected, shares)
    assert sorted(itertools.chain(*(share.lines for share in shares))) == expected
    for share in shares:
        assert share.lines == sorted(share.lines)
        assert len(share.lines) == 500
    assert shipper.finish().status == 0


def test_dead_collector_takes_nothing(endpoint: str, collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", endpoint, "-c", collector.endpoint, "--format", "raw")
    expected = lines(5000)
    result = shipper.finish(text(expected))
    assert collector.receive(5000) == expected
    assert (result.status, result.processed, result.stderr) == (0, 5000, "")


@pytest.mark.long
def test_lines_wait_for_the_first_of_several_collectors(
    endpoint: str, collect: Collect, ship: Ship
) -> None:
    """Nothing is handed to those that are not there; the first that comes takes all."""
    other = endpoint.rpartition(":")[0] + ":1"
    shipper = ship("-c", other, "-c", endpoint, "--format", "raw")
    expected = lines(5000)
    shipper.write(text(expected))
    wait_until_read(shipper)
    for half in (expected[:2500], expected[2500:]):
        shipper.write(text(half))
    collector = collect(endpoint)
    assert collector.receive(10_000) == expected * 2
    collector.close()
    wait_until_connected(shipper, 0)
    shipper.write(text(expected))
    wait_until_read(shipper)
    assert collect(endpoint).receive(5000) == expected
    assert shipper.finish().processed == 15_000


def test_collector_that_dies_takes_nothing_any_more(collect: Collect, ship: Ship) -> None:
    stays, dies = collect(), collect()
    shipper = ship("-c", stays.endpoint, "-c", dies.endpoint, "--format", "raw")
    share_out(shipper, [b"one", b"two"], [share_of(stays), share_of(dies)])
    dies.close()
    wait_until_connected(shipper, 1)
    expected = lines(5000)
    shipper.write(text(expected))
    assert stays.receive(5000) == expected
    result = shipper.finish()
    assert (result.status, result.stderr) == (0, "")


def test_collectors_may_connect(pull_from: PullFrom, ship: Ship) -> None:
    shipper = ship("-b", "tcp://127.0.0.1:*", "--format", "raw")
    expected = lines(5000)
    shipper.write(text(expected))
    puller = pull_from(bound(shipper))
    assert [puller.recv() for _ in expected] == expected
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 5000, "")


def test_connecting_collector_may_come_after_the_end_of_input(
    endpoint: str, pull_from: PullFrom, ship: Ship
) -> None:
    shipper = ship("-b", endpoint, "--format", "raw")
    shipper.write(b"x\n")
    wait_until_read(shipper)
    shipper.end_input()
    wait_until_asleep(shipper.pid)
    assert pull_from(endpoint).recv() == b"x"
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 1, "")


@pytest.mark.long
def test_bind_and_connect_together_share_the_load(
    collector: Collector, pull_from: PullFrom, ship: Ship
) -> None:
    shipper = ship("-b", "tcp://127.0.0.1:*", "-c", collector.endpoint, "--format", "raw")
    puller = pull_from(bound(shipper))
    expected = lines(1000)
    shares = [share_of(collector), Share(lambda: bool(puller.poll(1)), puller.recv)]
    share_out(shipper, expected, shares)
    assert sorted(shares[0].lines + shares[1].lines) == expected
    assert len(shares[0].lines) == 500
    assert shipper.finish().status == 0


@pytest.mark.long
def test_two_shippers_cannot_bind_to_one_address(ship: Ship) -> None:
    first = ship("-b", "tcp://127.0.0.1:*")
    endpoint = bound(first)
    result = ship("-b", endpoint).finish(b"x\n")
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == f"zmqpush.py: {endpoint}: Address already in use\n"


@pytest.mark.long
def test_ipc_reaches_the_collector(tmp_path: Path, collect: Collect, ship: Ship) -> None:
    collector = collect(f"ipc://{tmp_path}/pull")
    expected = lines(100_000)
    shipper = ship("-c", collector.endpoint, "--format", "raw")
    shipper.write(text(expected))
    assert collector.receive(100_000) == expected
    assert shipper.finish().processed == 100_000


@pytest.mark.long
def test_ipc_can_be_bound_and_the_place_of_a_dead_one_taken(
    tmp_path: Path, pull_from: PullFrom, ship: Ship
) -> None:
    endpoint = f"ipc://{tmp_path}/push"
    for text_ in (b"one", b"two"):
        shipper = ship("-b", endpoint, "--format", "raw")
        shipper.write(text_ + b"\n")
        with pull_from(endpoint) as puller:
            assert puller.recv() == text_
        shipper.stop()  # and leaves the socket file behind


@pytest.mark.long
def test_ipv6_reaches_the_collector(collect: Collect, ship: Ship) -> None:
    try:
        collector = collect("tcp://[::1]:*")
    except zmq.ZMQError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert "[::1]" in collector.endpoint
    result = ship("-c", collector.endpoint).finish(b"x\n")
    assert collector.texts(1) == ["x"]
    assert result.status == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "*"])
def test_host_name_reaches_the_collector(address: str, collect: Collect, ship: Ship) -> None:
    collector = collect(f"tcp://{address}:*")
    port = collector.endpoint.rpartition(":")[2]
    result = ship("-c", f"tcp://localhost:{port}", "--linger", "5").finish(b"x\n")
    assert (result.status, result.processed, result.stderr) == (0, 1, "")
    assert collector.texts(1) == ["x"]


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """The file that is /etc/hosts for who runs by `elsewhere`; nobody else is asked for names."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    return path


@pytest.fixture
def elsewhere(hosts: Path, tmp_path: Path) -> str:
    """A Python in a mount namespace, in which names are what `hosts` says."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("another /etc/hosts needs root and a mount namespace")
    (tmp_path / "nsswitch.conf").write_text("hosts: files\n")
    mounts = [
        f"mount --bind {shlex.quote(str(tmp_path / name))} /etc/{name}"
        for name in (hosts.name, "nsswitch.conf")
    ]
    mount_all = shlex.quote(" && ".join([*mounts, 'exec "$@"']))
    return python_by(tmp_path, f"unshare --mount sh -c {mount_all} sh")


@pytest.mark.long
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_host_name_that_is_in_ipv6_too_reaches_a_collector_in_ipv4(
    address: str, elsewhere: str, collect: Collect, ship: Ship
) -> None:
    """On most machines localhost is ::1 as well, and most collectors do not listen there."""
    collector = collect(f"tcp://{address}:*", IPV6=0)
    port = collector.endpoint.rpartition(":")[2]
    shipper = ship("-c", f"tcp://localhost:{port}", "--linger", "3", executable=elsewhere)
    result = shipper.finish(b"x\n")
    assert (result.status, result.processed, result.stderr) == (0, 1, "")
    assert collector.texts(1) == ["x"]


@pytest.mark.long
@pytest.mark.parametrize("addresses", ["127.0.0.1", "::1", "127.0.0.1 ::1"])
def test_host_name_that_resolves_later_reaches_the_collector(
    addresses: str, hosts: Path, elsewhere: str, collect: Collect, ship: Ship
) -> None:
    """A server that boots may start us before it knows names."""
    try:
        collector = collect(f"tcp://{'[::1]' if addresses == '::1' else '127.0.0.1'}:*")
    except zmq.ZMQError as error:
        pytest.skip(f"no IPv6 here: {error}")
    endpoint = f"tcp://later.invalid:{collector.endpoint.rpartition(':')[2]}"
    shipper = ship("-c", endpoint, executable=elsewhere)
    warning = shipper.read_stderr_line()
    assert warning.startswith(f"zmqpush.py: {endpoint}: ")
    with hosts.open("a") as file:
        file.writelines(f"{address} later.invalid\n" for address in addresses.split())
    shipper.write(b"x\n")
    assert collector.texts(1) == ["x"]
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 1, "")


UNKNOWN = "tcp://" + "a." * 150 + "invalid:2120"  # no name is so long: no server has to be asked


def test_name_that_does_not_resolve_is_one_warning_and_it_goes_on(
    collector: Collector, ship: Ship
) -> None:
    shipper = ship("-c", UNKNOWN, "-c", collector.endpoint)
    warning = shipper.read_stderr_line()
    assert warning.startswith(f"zmqpush.py: {UNKNOWN}: ")
    assert warning.endswith("; going on, it is tried again and again\n")
    shipper.write(b"one\ntwo\n")
    assert collector.texts(2) == ["one", "two"]
    wait_until_asleep(shipper.pid)
    main, _ = wakeups(shipper.pid, 0.5)
    assert main == 0
    result = shipper.finish()
    assert (result.status, result.processed, result.stderr) == (0, 2, "")


@pytest.mark.parametrize(
    "endpoint", [UNKNOWN, "tcp://" + "a" * 64 + ".invalid:1", "tcp://host..invalid:1"]
)
def test_name_that_does_not_resolve_may_be_the_only_one(endpoint: str, ship: Ship) -> None:
    shipper = ship("-c", endpoint)
    warning = shipper.read_stderr_line()
    assert warning.startswith(f"zmqpush.py: {endpoint}: ")
    shipper.write(b"one\ntwo\n")
    wait_until_read(shipper)
    assert shipper.process.poll() is None
    shipper.signal(signal.SIGINT)
    wait_until_taken(shipper.pid, signal.SIGINT)
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 1
    assert result.stderr == "zmqpush.py: gave up 2 messages: no collector ever connected\n"

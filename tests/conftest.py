"""The fixtures of all tests, and what the whole run needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.collector import Collector
from tests.support.net import free_endpoint
from tests.support.network import Network
from tests.support.programs import Shipper
from tests.support.rsyslog import Receiver
from tests.support.tmpfs import Disk

# The fixtures of a room that several of its files want. They are known everywhere.
pytest_plugins = [
    "tests.ack.fixtures",
    "tests.curve.fixtures",
    "tests.omprog.fixtures",
    "tests.pull.fixtures",
    "tests.push.fixtures",
    "tests.rsyslog.fixtures",
    "tests.sinks.fixtures",
    "tests.spool.fixtures",
]

# What a background job of a shell ignores, its children would ignore as well.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything can be installed (CI), a skip hides a gap: it is a failure there."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, but CI=true: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the tests may use the programs; and nothing but -u makes stdout unbuffered."""
    for name in os.environ:
        if name.startswith(("ZMQPUSH_", "ZMQPULL_")) or name == "PYTHONUNBUFFERED":
            monkeypatch.delenv(name)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a free port."""
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def collect() -> Iterator[Callable[..., Collector]]:
    """Makes collectors; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(endpoint: str = "tcp://127.0.0.1:*", **sockopts: int) -> Collector:
            collector = Collector(endpoint, **sockopts)
            stack.callback(collector.close)
            return collector

        yield make


@pytest.fixture
def ship() -> Iterator[Callable[..., Shipper]]:
    """Starts shippers; all are killed at the end, if they still run."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **settings: Any) -> Shipper:
            shipper = Shipper(*arguments, **settings)
            stack.callback(shipper.stop)
            return shipper

        yield start


@pytest.fixture
def endpoint() -> str:
    """Where nobody listens yet, nor will anybody else."""
    return free_endpoint()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Disk]]:
    """Makes a file system, with options of tmpfs such as `size=4m`."""
    if os.geteuid() or not shutil.which("nsenter"):
        pytest.skip("a small disk needs root and a mount namespace")
    with contextlib.ExitStack() as stack:

        def make(options: str) -> Disk:
            disk = Disk(tmp_path, options)
            stack.callback(disk.close)
            if not disk.is_mounted:
                pytest.skip("no tmpfs in a mount namespace here")
            return disk

        yield make


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    network = Network(f"zmqpush-{os.getpid()}")
    try:
        try:
            network.set_up()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield network
    finally:
        network.remove()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A rsyslogd that collects, not started yet."""
    receiver = Receiver(tmp_path / "receiver")
    yield receiver
    receiver.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that may take longest: else all would have to wait for them at the end."""

    def may_take_s(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return float(mark.args[0]) if mark else 0.0

    items.sort(key=may_take_s, reverse=True)

"""The fixtures of all tests, and what the whole run needs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from tests.support.collector import Collector
from tests.support.programs import Shipper

pytest_plugins = [
    "tests.ack.fixtures",
    "tests.pull.fixtures",
    "tests.sinks.fixtures",
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
    """Who runs the tests may use the programs."""
    for name in os.environ:
        if name.startswith(("ZMQPULL_", "ZMQPUSH_")):
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that may take longest: else all would have to wait for them at the end."""

    def may_take_s(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return float(mark.args[0]) if mark else 0.0

    items.sort(key=may_take_s, reverse=True)

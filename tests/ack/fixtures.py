"""The programs and their peers, as the tests of acknowledged delivery start them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ack.helpers import PATIENCE_S, copy_with
from tests.support.ack import OurCollector, OurShipper, OurShippers
from tests.support.aliases import Ship
from tests.support.programs import Shipper


@pytest.fixture(scope="session")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A zmqpush.py whose patience is short."""
    folder = tmp_path_factory.mktemp("hasty")
    return copy_with(folder, ANSWER_S=PATIENCE_S, LONGEST_PATIENCE_S=2 * PATIENCE_S)


@pytest.fixture
def pull_ack(ship: Ship) -> Ship:
    """Starts collectors; it takes their endpoint, and options."""

    def start(endpoint: str, *options: str, **settings: Any) -> Shipper:
        arguments = ("--ack", "--bind", endpoint, *options)
        return ship(*arguments, program="zmqpull.py", **settings)

    return start


@pytest.fixture
def our_collector() -> Iterator[OurCollector]:
    collector = OurCollector()
    yield collector
    collector.close()


@pytest.fixture
def our_shipper() -> Iterator[OurShippers]:
    with contextlib.ExitStack() as stack:

        def start(endpoint: str) -> OurShipper:
            return stack.enter_context(contextlib.closing(OurShipper(endpoint)))

        yield start

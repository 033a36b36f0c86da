"""The fixture of several files here; tests/conftest.py names this module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rsyslog.helpers import Logger
from tests.support.collector import Collector
from tests.support.rsyslog import Receiver


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[Callable[..., Logger]]:
    """Makes rsyslogds that run zmqpush.py, and starts them; all is killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(style: str, receiver: Receiver | Collector, **settings: str) -> Logger:
            logger = Logger(tmp_path / "logger", style, receiver.endpoint, **settings)
            stack.callback(logger.close)
            logger.start()
            return logger

        yield start

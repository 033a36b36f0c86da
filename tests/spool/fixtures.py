"""The fixtures of several files here; tests/conftest.py names this module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spool.helpers import ANY_PORT
from tests.support.aliases import Collect
from tests.support.collector import Collector


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A DIR that is not there yet."""
    return tmp_path / "spool"


@pytest.fixture
def eager_collector(collect: Collect) -> Collector:
    """A collector that takes what comes before anybody asks for it."""
    return collect(ANY_PORT, RCVHWM=0)

"""What the fixtures of tests/conftest.py give."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.collector import Collector
from tests.support.programs import Shipper

Ship = Callable[..., Shipper]
Collect = Callable[..., Collector]

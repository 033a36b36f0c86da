"""The type of the fixture `ship`."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.programs import Shipper

Ship = Callable[..., Shipper]

"""What is in the events that arrive."""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.collector import strict_json


def pids_of(events: Iterable[bytes]) -> set[int]:
    """The shippers that made the events."""
    return {strict_json(event)["@pid"] for event in events}

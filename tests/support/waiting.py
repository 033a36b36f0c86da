"""Waiting for an event, with a deadline after which the test fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

DEADLINE_S = 20.0


def wait_until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Look at `condition` until it holds, and return what it gave; fail after the deadline.

    For what cannot be waited for otherwise, such as the state of a process in /proc.
    """
    ends_at = time.monotonic() + deadline_s
    while not (result := condition()):
        assert time.monotonic() < ends_at, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
    return result

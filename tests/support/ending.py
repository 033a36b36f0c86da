"""Our programs are stopped, killed, and ended."""

from __future__ import annotations

import signal

from tests.support.proc import wait_until_stopped
from tests.support.programs import Shipper
from tests.support.waiting import DEADLINE_S


def stop(process: Shipper) -> None:
    """Stop it with SIGSTOP, and wait until it is."""
    process.signal(signal.SIGSTOP)
    wait_until_stopped(process.pid)


def kill(process: Shipper) -> None:
    process.signal(signal.SIGKILL)
    process.process.wait(DEADLINE_S)


def end(collector: Shipper) -> str:
    """End a collector in an orderly manner; returns what it said."""
    collector.signal(signal.SIGTERM)
    result = collector.finish()
    assert (result.status, result.stdout) == (0, "")
    return result.stderr

"""The counters of a running shipper: it prints them at SIGUSR1, and every --stats seconds."""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

from tests.support.programs import Shipper

LINE = re.compile(
    r"zmqpush\.py: \d+\.\ds: (\d+) messages read, (\d+) handed over, (\d+) waiting "
    r"\((\d+) bytes\), (\d+) connected\n"
)


class Counters(NamedTuple):
    """What such a line says."""

    read: int
    handed_over: int
    waiting: int
    waiting_bytes: int
    connected: int


def read_counters(shipper: Shipper) -> Counters:
    """The counters in the next line on its stderr."""
    line = shipper.read_stderr_line()
    counters = LINE.fullmatch(line)
    assert counters, line
    return Counters(*map(int, counters.groups()))


def ask_counters(shipper: Shipper) -> Counters:
    """Ask it with SIGUSR1, on which it must act already."""
    shipper.signal(signal.SIGUSR1)
    return read_counters(shipper)

"""What the bench says: rows of figures beside their targets, as a table for eyes and README."""

from __future__ import annotations

import operator
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Callable

import zmq

from tests.bench.peers import Tools, find_rsyslogd

#: A difference smaller than this is none: the medians of two benches of the same program on
#: a quiet machine differ by as much. It counts where a target is to be no worse than
#: something, not where it is to be some times better.
NOISE = 0.03

HEADINGS = ("peer", "ratio", "target", "reached")


@dataclass(frozen=True)
class Row:
    """One line of the table; `reached` is None where there is no target."""

    what: str
    ours: str
    peer: str = ""
    ratio: str = ""
    target: str = ""
    reached: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as text: what, ours, and the rest in the order of HEADINGS."""
        reached = {True: "yes", False: "**no**", None: ""}[self.reached]
        return (self.what, self.ours, self.peer, self.ratio, self.target, reached)


@dataclass(frozen=True)
class Section:
    """What one section of the bench found out.

    Attributes:
        title: its heading.
        rows: the figures.
        details: sentences that say how they came about; each becomes an item of a list.
        ours: the heading of our figures.
    """

    title: str
    rows: list[Row]
    details: list[str]
    ours: str = "zmqpush"


# ---- figures as text ------------------------------------------------------------------------

Format = Callable[[float], str]


def rate(value: float) -> str:
    """Events a second, to four digits at most."""
    return f"{float(f'{value:.4g}'):,.0f}/s"


#: CPU microseconds a line.
cpu_us: Format = "{:.2f} µs".format

#: Percent of a core.
percent: Format = "{:.2f}%".format

#: Microseconds, whole ones.
latency: Format = "{:,.0f} µs".format


def milliseconds(value: float) -> str:
    """Milliseconds of a value in seconds."""
    return f"{value * 1e3:.0f} ms"


def memory(value: float) -> str:
    """Megabytes (a million bytes) of a value in bytes."""
    return f"{value / 1e6:,.0f} MB"


# ---- figures against targets ----------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """What a target asks of our figure: to be at least, or at most, so many times the peer's."""

    sign: str
    holds: Callable[[float, float], bool]

    def __call__(
        self,
        what: str,
        ours: float,
        peer_name: str,
        peer: float,
        times: float | None,
        form: Format,
    ) -> Row:
        """Our figure beside the peer's, and beside the target if there is one."""
        return Row(
            what,
            form(ours),
            f"{peer_name} {form(peer)}",
            f"{ours / peer:.2f} ×" if peer else "",
            f"{self.sign} {times:g} ×" if times else "",
            self.holds(ours, times * peer) if times else None,
        )


at_least = Bound("≥", operator.ge)
at_most = Bound("≤", operator.le)


# ---- the table ------------------------------------------------------------------------------


def aligned(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first row is the heading, padded to be read as it is."""
    widths = [max(len(cell) for cell in column) for column in zip(*table)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    rule = ["-" * width for width in widths]
    return "\n".join(line(cells) for cells in (table[0], rule, *table[1:]))


def render(section: Section) -> str:
    """A section as Markdown."""
    table = aligned([("what", section.ours, *HEADINGS), *(row.cells() for row in section.rows)])
    details = "\n".join(f"- {detail}" for detail in section.details)
    return "\n\n".join(part for part in (f"## {section.title}", table, details) if part) + "\n"


# ---- where it was measured ------------------------------------------------------------------


def describe_machine(tools: Tools) -> str:
    """What the figures depend on besides us: processor and versions."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    c_libzmq = subprocess.check_output([tools.sink, "--version"], text=True).strip()
    rsyslog = subprocess.check_output([find_rsyslogd(), "-v"], text=True).split()[1]
    kernel = ".".join(platform.release().split(".")[:2])
    return (
        f"{os.cpu_count()} cores ({processor.group(1) if processor else platform.machine()}), "
        f"Linux {kernel}, Python {platform.python_version()}, "
        f"pyzmq {zmq.__version__} with libzmq {zmq.zmq_version()}, aiozmq {version('aiozmq')}; "
        f"the C programs with libzmq {c_libzmq}; rsyslog {rsyslog}."
    )


def preamble(command: str, machine: str) -> str:
    """The start of FIGURES.md."""
    return (
        "# Figures\n\n"
        f"Measured in one run of `{command}`, which wrote this file. {machine}\n\n"
        "Everybody ships the same lines to the same sink, a C program, over TCP on this "
        "machine; collectors are sent them by one. Each figure is the median of the runs, "
        "taken in turn.\n"
    )

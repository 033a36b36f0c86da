"""The sinks, a file each. One set of tests (tests/sinks) holds all of them to contract.py.

A sink's file has the class, and three functions for the command line: `add_options(option)`,
`check(options)`, which raises ValueError where they do not fit together, and `sinks(options)`,
those that were asked for, which raises ValueError where one cannot be.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from zmqlines.sinks import file, redis_list, sqlite
from zmqlines.sinks.contract import Sink

ALL = (file, redis_list, sqlite)  # in the order of --help


def add_options(option: Callable[..., Any]) -> None:
    """Those of all sinks."""
    for kind in ALL:
        kind.add_options(option)


def check(options: argparse.Namespace) -> None:
    """Raises ValueError where the options do not fit together."""
    for kind in ALL:
        kind.check(options)


def open_sinks(options: argparse.Namespace) -> list[Sink]:
    """All that were asked for, or standard output. Raises ValueError where one cannot be."""
    sinks: list[Sink] = []
    for kind in ALL:
        try:
            sinks += kind.sinks(options)
        except ValueError:
            for sink in sinks:
                sink.close()
            raise
    return sinks or [file.Descriptor(1, file.STANDARD_OUTPUT)]

"""`--list`: what waits in a spool, also while others hold its files."""

from __future__ import annotations

import argparse
import os
import sqlite3
import time

import zmqpush
from zmqlines.spool_file import SpoolFile, reason
from zmqlines.spool_folder import TELL_S
from zmqlines.spool_state import State, read_state

HEAD = ("HELD BY", "EVENTS", "BYTES", "OLDEST", "FILE")
DAMAGED = SpoolFile.SUFFIX + ".damaged"
PATIENCE_S = 4 * TELL_S
LOOK_AGAIN_S = 0.02


def check(options: argparse.Namespace) -> None:
    """Raises ValueError where it does not go with the other options."""
    if not options.spool:
        raise ValueError("--list is for --spool DIR")


def list_spool(directory: str) -> int:
    """Print what waits in the files of `directory`, oldest first; returns the exit status."""
    try:
        act_as_owner(directory)
        names = sorted(os.listdir(directory))
    except OSError as error:
        zmqpush.fail(f"--spool {directory}: {error.strerror}")
    rows, states = [], []
    for name in names:
        if name.endswith(DAMAGED):
            rows.append(("damaged", "-", "-", "-", name))
        elif name.endswith(SpoolFile.SUFFIX):
            whose, state = look_at(os.path.join(directory, name))
            if state:
                states.append(state)
            if state or whose:
                rows.append((whose, *in_words(state), name))
    events = sum(state.events for state in states)
    size = sum(state.size for state in states)
    ended = f"{events} messages wait in {len(rows)} files, {size} bytes"
    return tell([*table(HEAD, *rows), ended] if rows else [f"nothing waits in {directory}"])


def act_as_owner(directory: str) -> None:
    """Let root be who owns the directory: what root made in it, nobody else could use."""
    owner = os.stat(directory)
    if os.geteuid() == 0 != owner.st_uid:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)


def look_at(path: str) -> tuple[str, State | None]:
    """Who holds the file at `path`, and what waits there; "" and None where it has just gone.

    Who has just begun to hold it tells soon, or is only looking, too.
    """
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            file = SpoolFile.adopt(path)
        except FileNotFoundError:
            return "", None
        except (OSError, sqlite3.Error) as error:
            return f"nobody: {reason(error)}", None
        if file:
            state = file.state()
            file.let_go()
            return "nobody", state
        told = read_state(path)
        if told:
            return f"pid {told.pid}", told
        if time.monotonic() > give_up_at:
            return "somebody", None
        time.sleep(LOOK_AGAIN_S)


def in_words(state: State | None) -> tuple[str, str, str]:
    """Events, bytes, and since when."""
    if not state:
        return "-", "-", "-"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(state.oldest)) if state.oldest else "-"
    return str(state.events), str(state.size), since


def table(*rows: tuple[str, ...]) -> list[str]:
    """The rows as lines, each column as wide as it has to be."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip() for row in rows
    ]


def tell(lines: list[str]) -> int:
    """Print `lines` on standard output; returns the exit status."""
    try:
        with open(1, "w", closefd=False, errors="backslashreplace") as output:
            output.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        zmqpush.say(f"cannot write to standard output: {error.strerror}")
        return 1
    return 0

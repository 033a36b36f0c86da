"""How many files and connections the process may have open."""

from __future__ import annotations

import os
import resource


def allow_open_files() -> None:
    """Allow as many as the system does (getrlimit(2)).

    Each connection takes one, each file of a spool three.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def open_files() -> int:
    """How many the process has open, all together."""
    return len(os.listdir("/proc/self/fd")) - 1  # one of them was for this


def free_descriptors() -> int:
    """How many more the process may open."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return most - len(os.listdir("/proc/self/fd")) + 1  # one was for looking
    except OSError:  # not even that one
        return 0

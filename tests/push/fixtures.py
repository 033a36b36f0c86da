"""The fixtures of this room."""

from __future__ import annotations

import os
import pty
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the tests may use the program; and nothing but -u makes stdout unbuffered."""
    for name in os.environ:
        if name.startswith("ZMQPUSH_") or name == "PYTHONUNBUFFERED":
            monkeypatch.delenv(name)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The two ends of a pseudo-terminal without echo: the user's, and the program's."""
    user, program = pty.openpty()
    attributes = termios.tcgetattr(program)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(program, termios.TCSANOW, attributes)
    yield user, program
    os.close(program)
    try:
        os.close(user)
    except OSError:  # the test has hung up
        return

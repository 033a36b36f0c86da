"""The fixtures of this room."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the tests may use the program; and nothing but -u makes stdout unbuffered."""
    for name in os.environ:
        if name.startswith("ZMQPUSH_") or name == "PYTHONUNBUFFERED":
            monkeypatch.delenv(name)

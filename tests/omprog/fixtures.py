"""The fixtures of several files here; tests/conftest.py names this module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.omprog.helpers import Dialogue
from tests.omprog.logger import Logger
from tests.support.aliases import Ship


@pytest.fixture
def spool(tmp_path: Path) -> str:
    return str(tmp_path / "spool")


@pytest.fixture
def dialogue(ship: Ship) -> Iterator[Callable[..., Dialogue]]:
    """Starts shippers and waits until they are ready; looks at the end what stdout had on it."""
    dialogues: list[Dialogue] = []

    def start(*arguments: str, **popen: str) -> Dialogue:
        dialogue = Dialogue(ship(*arguments, "--omprog", **popen))
        dialogues.append(dialogue)
        assert dialogue.answer() == "OK"
        return dialogue

    yield start
    for dialogue in dialogues:
        if dialogue.shipper.process.poll() is None:
            dialogue.kill()
        dialogue.check_rest()


@pytest.fixture
def asking_logger(tmp_path: Path) -> Iterator[Callable[..., Logger]]:
    """Makes rsyslogds that run zmqpush.py --omprog, and starts them; all is killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(
            endpoint: str, arguments: str = "", parameters: str = "", transactions: bool = False
        ) -> Logger:
            arguments += " --omprog-transactions" * transactions
            parameters += ' useTransactions="on"' * transactions
            logger = Logger(tmp_path / "logger", endpoint, arguments, parameters)
            stack.callback(logger.close)
            logger.start()
            return logger

        yield start

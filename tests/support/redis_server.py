"""A real redis-server for the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.endpoints import address_of
from tests.support.net import free_endpoint
from tests.support.waiting import DEADLINE_S, wait_until


class RedisServer:
    """A redis-server process on a port that nobody else takes; started by `start()`."""

    def __init__(self, folder: Path) -> None:
        self._path = shutil.which("redis-server")
        if not self._path:
            pytest.skip("redis-server is not installed (Debian: redis-server)")
        folder.mkdir()
        self._folder = folder
        self.host, self.port = address_of(free_endpoint())
        self.url = f"redis://{self.host}:{self.port}/0"
        self.client: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, appendfsync: str = "no", deadline_s: float = DEADLINE_S, **more: str) -> None:
        """Start it, perhaps once more with what it had, and wait until it answers.

        A setting's `_` is a `-`.
        """
        assert self._path
        settings = f"""
            bind {self.host}
            port {self.port}
            dir {self._folder}
            appendonly yes
            appendfsync {appendfsync}
            save ""
            protected-mode no
        """
        for name, value in more.items():
            settings += f"{name.replace('_', '-')} {value}\n"
        self._process = subprocess.Popen(
            [self._path, "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin
        self._process.stdin.write(settings.encode())
        self._process.stdin.close()
        self.client = redis.Redis(self.host, self.port, socket_timeout=DEADLINE_S)
        wait_until(self._answers, "redis-server answers", deadline_s)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

    def wait_for_calls(self, command: str, times: int) -> None:
        """Wait until it was told that command so many times more."""

        def calls() -> int:
            statistics = self.client.info("commandstats").get(f"cmdstat_{command}", {})
            return int(statistics.get("calls", 0))

        before = calls()
        wait_until(lambda: calls() >= before + times, f"{command} {times} times")

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def end(self, number: signal.Signals) -> None:
        """Send it a signal, and wait for its end."""
        assert self._process
        self.client.close()
        self.send_signal(number)
        self._process.wait(DEADLINE_S)

    def kill(self) -> None:
        """Kill it with -9, if it runs; may be called again."""
        if self._process:
            self.client.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # it may be rewriting its AOF
            self._process.wait()

    def list(self, key: str = "logstash") -> list[bytes]:
        elements: list[bytes] = self.client.lrange(key, 0, -1)
        return elements

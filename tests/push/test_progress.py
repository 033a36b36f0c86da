"""--progress: a live line on a terminal."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.push.command_line import one_line
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.running import customized
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version


class Screen:
    """A terminal of 200 columns, and what was shown there."""

    def __init__(self) -> None:
        self._master, self.terminal = os.openpty()
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        self.shown = ""

    def wait_for(self, pattern: str, deadline_s: float = DEADLINE_S) -> re.Match[str]:
        """Read until something like `pattern` is shown."""
        ends_at = time.monotonic() + deadline_s
        while not (found := re.search(pattern, self.shown)):
            left_s = ends_at - time.monotonic()
            readable, _, _ = select.select([self._master], [], [], max(left_s, 0))
            assert readable, f"not within {deadline_s} s: {pattern}: {self.shown!r}"
            self._read()
        return found

    def read_to_end(self) -> str:
        """All that was shown, when nobody can write any more."""
        os.close(self.terminal)
        self.terminal = -1
        try:
            while True:
                self._read()
        except OSError:  # EIO
            return self.shown

    def close(self) -> None:
        os.close(self._master)
        if self.terminal >= 0:
            os.close(self.terminal)

    def _read(self) -> None:
        self.shown += os.read(self._master, 65536).decode()


@pytest.fixture
def screen() -> Iterator[Screen]:
    screen = Screen()
    yield screen
    screen.close()


def test_progress_shows_lines_rate_and_what_waits(
    collector: Collector, ship: Ship, screen: Screen
) -> None:
    pytest.importorskip("tqdm")
    shipper = ship("-c", collector.endpoint, "--progress", stderr=screen.terminal)
    shipper.write(b"a\nb\nc\n")
    screen.wait_for(r"\b3 lines, [1-9]\d*/s, 0 waiting")
    shipper.write(b"d\n")
    screen.wait_for(r"\b4 lines, \d+/s, 0 waiting")
    assert "%" not in screen.shown, "there is no share of an endless stream"
    assert shipper.finish().processed == 4


def test_progress_shows_the_share_done_of_a_file(
    collect: Callable[..., Collector], ship: Ship, screen: Screen, tmp_path: Path
) -> None:
    pytest.importorskip("tqdm")
    count = 16_000
    path = tmp_path / "file"
    path.write_bytes(b"%01000d\n" % 0 * count)
    collector = collect(RCVHWM=1, RCVBUF=4096)
    with path.open("rb") as file:
        shipper = ship(
            *("-c", collector.endpoint, "--progress"), stdin=file, stderr=screen.terminal
        )
        share = screen.wait_for(r" ([1-9]\d?)%.* (\d+) lines, \d+/s, [1-9]\d* waiting")
        collector.receive(count)
    assert abs(int(share[1]) - 100 * int(share[2]) / count) < 10
    assert shipper.finish().processed == count


def test_the_last_thing_progress_shows_is_the_end_and_the_summary_is_below_it(
    collector: Collector, ship: Ship, screen: Screen
) -> None:
    pytest.importorskip("tqdm")
    terminal = {"stdout": screen.terminal, "stderr": screen.terminal}
    shipper = ship("-c", collector.endpoint, "--progress", **terminal)
    shipper.write(b"x\n")
    screen.wait_for("1 lines")
    shipper.write(b"x\n")
    shipper.finish()
    before, summary, after = screen.read_to_end().partition("Processed 2 messages")
    assert summary
    assert before.endswith("\n")
    assert "2 lines, " in before.rstrip().rpartition("\r")[2]
    assert "lines, " not in after


def test_progress_shows_nothing_where_stderr_is_no_terminal(
    collector: Collector, ship: Ship
) -> None:
    result = ship("-c", collector.endpoint, "--progress").finish(b"x\n")
    assert (result.status, result.processed, result.stderr) == (0, 1, "")


def test_progress_without_tqdm_says_so_and_leaves_stdin_as_it_was(
    ship: Ship, screen: Screen, tmp_path: Path
) -> None:
    without = customized(tmp_path, "import sys; sys.modules['tqdm'] = None")
    reader, writer = os.pipe()
    before = fcntl.fcntl(reader, fcntl.F_GETFL)
    try:
        shipper = ship("--progress", stdin=reader, stderr=screen.terminal, env=without)
        result = shipper.finish()
        after = fcntl.fcntl(reader, fcntl.F_GETFL)
    finally:
        os.close(reader)
        os.close(writer)
    assert (result.status, result.stdout) == (2, "")
    assert "tqdm" in one_line(screen.read_to_end().replace("\r\n", "\n"))
    assert after == before

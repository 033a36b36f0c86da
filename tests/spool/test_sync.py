"""A sync that fails proves nothing by succeeding later: what it was for is written again elsewhere.

Linux tells of what it could not write once, and forgets it (fsync(2), EIO).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.omprog.helpers import BEGIN, COMMIT, Dialogue
from tests.spool.helpers import assert_delivered, feed, messages_in, names, start_draining
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.lines import lines, text
from tests.support.programs import wait_until_read
from tests.support.running import customized
from tests.support.spooled import rows

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


BROKEN = """
import os
really_sync = os.fdatasync

def sync(descriptor):
    if os.path.exists({flag!r}):
        raise OSError(5, "Input/output error")
    really_sync(descriptor)

os.fdatasync = sync
"""


class BadDisk:
    """A disk whose syncs fail, while it is told so, in the process that is given `settings`."""

    def __init__(self, folder: Path) -> None:
        self._flag = folder / "bad"
        code = folder / "site"
        code.mkdir()
        self.settings: dict[str, Any] = {
            "env": customized(code, BROKEN.format(flag=str(self._flag)))
        }

    def breaks(self) -> None:
        self._flag.touch()

    def is_well(self) -> None:
        self._flag.unlink()


@pytest.fixture
def bad_disk(tmp_path: Path) -> BadDisk:
    return BadDisk(tmp_path)


def test_what_could_not_be_synced_is_written_to_another_file_and_sent_once_and_in_order(
    directory: Path, endpoint: str, eager_collector: Collector, bad_disk: BadDisk, ship: Ship
) -> None:
    expected = lines(3000)
    options = ("-c", endpoint, "--spool", str(directory), "--format", "raw")
    shipper = feed(ship(*options, **bad_disk.settings), text(expected[:1000]))
    bad_disk.breaks()
    shipper.write(text(expected[1000:2000]))
    assert shipper.read_stderr_line() == (
        "zmqpush.py: cannot write to the spool: Input/output error; reading on when that is over\n"
    )
    bad_disk.is_well()
    wait_until_read(shipper)
    feed(shipper, text(expected[2000:]))
    shipper.stop()
    assert messages_in(directory) == expected
    assert len([name for name in names(directory) if name.endswith(".spool")]) == 2
    assert_delivered(start_draining(ship, eager_collector.endpoint, directory).finish(), 3000)
    assert eager_collector.receive(3000) == expected
    assert names(directory) == []


def test_what_could_not_be_synced_is_sent_once_while_it_runs(
    directory: Path, eager_collector: Collector, bad_disk: BadDisk, ship: Ship
) -> None:
    expected = lines(3000)
    options = ("-c", eager_collector.endpoint, "--spool", str(directory), "--format", "raw")
    shipper = feed(ship(*options, **bad_disk.settings), text(expected[:1000]))
    bad_disk.breaks()
    shipper.write(text(expected[1000:2000]))
    assert "Input/output error" in shipper.read_stderr_line()
    bad_disk.is_well()
    wait_until_read(shipper)
    assert_delivered(shipper.finish(text(expected[2000:])), 3000)
    assert eager_collector.receive(3000) == expected
    assert names(directory) == []


def test_message_that_was_refused_does_not_stay_in_the_spool(
    dialogue: Callable[..., Dialogue], endpoint: str, spool: str, bad_disk: BadDisk
) -> None:
    rsyslog = dialogue("--connect", endpoint, "--spool", spool, **bad_disk.settings)
    assert rsyslog.ask(b"one") == "OK"
    bad_disk.breaks()
    for _ in range(3):
        assert "Input/output error" in rsyslog.ask(b"two")
    bad_disk.is_well()
    assert rsyslog.ask(b"two") == "OK"
    assert rsyslog.ask(b"three") == "OK"
    rsyslog.kill()
    assert [row.events for row in rows(Path(spool))] == [1, 1, 1]
    texts = [message.split(b'"')[3] for message in messages_in(Path(spool))]
    assert texts == [b"one", b"two", b"three"]


def test_transaction_whose_commit_was_refused_is_kept(
    dialogue: Callable[..., Dialogue], endpoint: str, spool: str, bad_disk: BadDisk
) -> None:
    """rsyslog 8.2302 does not send again what was answered with DEFER_COMMIT."""
    options = ("--connect", endpoint, "--spool", spool, "--omprog-transactions")
    rsyslog = dialogue(*options, **bad_disk.settings)
    assert rsyslog.ask(BEGIN) == "OK"
    assert rsyslog.ask(b"one") == "DEFER_COMMIT"
    bad_disk.breaks()
    assert "Input/output error" in rsyslog.ask(COMMIT)
    bad_disk.is_well()
    assert rsyslog.ask(COMMIT) == "OK"
    rsyslog.kill()
    assert [message.split(b'"')[3] for message in messages_in(Path(spool))] == [b"one"]

"""A spool at its limit, and what it says where it cannot write what would make room."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from tests.spool.helpers import make_spool
from tests.support.waiting import DEADLINE_S
from zmqlines.finished import Finished
from zmqpush import CannotKeep


def test_a_full_disk_at_the_limit_is_told_to_who_asks_for_room(directory: Path) -> None:
    """Or rsyslog would wait for an answer as long as the disk is full."""

    def sync() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def scenario() -> None:
        spool = make_spool(directory)
        spool.limit = 1
        spool.put_chunk(Finished(b"x", 1, 1))
        vars(spool._folder.own).update(sync=sync)
        await asyncio.wait_for(spool.room(), DEADLINE_S / 4)

    with pytest.raises(CannotKeep, match="cannot write to the spool: No space left on device"):
        asyncio.run(scenario())

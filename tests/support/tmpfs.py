"""A small disk that can be full."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from tests.support.running import python_by


class Disk:
    """A small file system (tmpfs) in a mount namespace, which ends with the process inside."""

    def __init__(self, folder: Path, options: str) -> None:
        place = folder / "disk"
        place.mkdir()
        mount = f"mount -t tmpfs -o {options} tmpfs {shlex.quote(str(place))}"
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f"{mount} && echo mounted && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._keeper.stdout
        self.is_mounted = self._keeper.stdout.readline() == b"mounted\n"
        namespace = f"/proc/{self._keeper.pid}/ns/mnt"
        self.inside = {"executable": python_by(folder, f"nsenter --mount={namespace}")}
        self.directory = place / "spool"  # as seen from inside
        self.seen = Path(f"/proc/{self._keeper.pid}/root{self.directory}")  # by us
        self._filler = self.seen.with_name("filler")

    def fill_up(self, leave: int = 0) -> None:
        """Let somebody else take all of it but `leave` bytes."""
        with self._filler.open("ab", buffering=0) as filler:
            free = os.fstatvfs(filler.fileno())
            os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_bsize - leave)

    def make_room(self) -> None:
        """Take away what `fill_up()` has put there."""
        self._filler.unlink()

    def close(self) -> None:
        self._keeper.kill()
        self._keeper.communicate()

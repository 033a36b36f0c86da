"""A disk that is small, and may be full."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.waiting import DEADLINE_S


class SmallDisk:
    """A file system (tmpfs) in the mount namespace of the process that `python` starts.

    It is mounted at `folder`, as seen from inside, and has `size` bytes; `files` are there from the
    start. If it is full, it is so before the process begins. Skips the test where the kernel does
    not allow such a namespace.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        files: Mapping[str, bytes] | None = None,
        is_full: bool = False,
    ) -> None:
        self.folder = folder / "disk"
        self.folder.mkdir()
        copies = folder / "disk-files"
        copies.mkdir()
        for name, data in (files or {}).items():
            (copies / name).write_bytes(data)
        disk = shlex.quote(str(self.folder))
        steps = [f"mount -t tmpfs -o size={size} tmpfs {disk}"]
        steps.append(f"cp -R {shlex.quote(str(copies))}/. {disk}")
        if is_full:
            steps.append(f"{{ head -c {size} /dev/zero >{disk}/filler 2>/dev/null || :; }}")
        prepare = " && ".join(steps)
        unshare = "unshare --map-root-user --mount sh -c"
        probe = subprocess.run(
            [*unshare.split(), prepare], capture_output=True, timeout=DEADLINE_S, check=False
        )
        if probe.returncode:
            pytest.skip(f"no small disk here: {probe.stderr.decode().strip()}")
        within = shlex.quote(f'{prepare} && exec "$0" "$@"')
        self.python = folder / "python-on-disk"
        self.python.write_text(f'#!/bin/sh\nexec {unshare} {within} {sys.executable} "$@"\n')
        self.python.chmod(0o755)

    def seen(self, pid: int) -> Path:
        """The folder that the process sees, from outside."""
        return Path(f"/proc/{pid}/root{self.folder}")

    def fill(self, pid: int, leave: int = 0) -> None:
        """Leave so many bytes, and no more, to the process."""
        with (self.seen(pid) / "filler").open("ab", buffering=0) as filler:
            disk = os.fstatvfs(filler.fileno())
            size = os.fstat(filler.fileno()).st_size + disk.f_bavail * disk.f_frsize - leave
            os.posix_fallocate(filler.fileno(), 0, size)

    def make_room(self, pid: int, size: int | None = None) -> None:
        """Give so many bytes back to the process, or all that the disk was filled with."""
        filler = self.seen(pid) / "filler"
        left = 0 if size is None else max(0, filler.stat().st_size - size)
        os.truncate(filler, left)

"""`--pid-file`: whom to signal, for as long as there is somebody.

The file is locked while its process lives, so that one of a process that was killed can be told
from one of a process that runs, whoever has its number now: `flock -n -s FILE true`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from zmqlines.sinks.contract import identity

PATIENCE_S = 1.0  # somebody may just look whether it is locked
LOOK_S = 0.02


class PidFile:
    """A file with our pid, from when we are ready until we end."""

    def __init__(self, path: str) -> None:
        """Lock it; what a process that was killed has left is taken over.

        Raises OSError, and ValueError where a running process has it.
        """
        self._path = path
        self._descriptor = self._open()
        ends_at = time.monotonic() + PATIENCE_S
        while not self._lock():
            if time.monotonic() > ends_at:
                holder = os.pread(self._descriptor, 20, 0).decode(errors="replace").strip()
                raise ValueError(f"a running process has it: pid {holder or 'unknown'}")
            time.sleep(LOOK_S)
            if not self._is_here():  # its owner has just removed it
                os.close(self._descriptor)
                self._descriptor = self._open()
        os.ftruncate(self._descriptor, 0)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _is_here(self) -> bool:
        return identity(self._path) == identity(f"/proc/self/fd/{self._descriptor}")

    def _lock(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self._is_here()

    def write(self) -> None:
        """We are ready to be signalled. Raises OSError."""
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def remove(self) -> None:
        """We end; what somebody else has put there stays."""
        with contextlib.suppress(OSError):  # a folder that is gone, or not ours any more
            if self._is_here():
                os.unlink(self._path)
        os.close(self._descriptor)

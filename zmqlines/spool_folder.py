"""The files of a spool's directory: our own, and what others have left behind there."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable

import zmqpush
from zmqlines.descriptors import allow_open_files, free_descriptors
from zmqlines.spool_file import (
    DISK_RESERVE,
    SpoolFile,
    is_damage,
    is_for_now,
    put_aside,
    reason,
    refuse_small_disk,
    refuse_strangers,
)

MOST_LEFT_BEHIND = 64  # files that are taken over at once
LOOK_INTERVAL_S = 1.0
RETRY_INTERVAL_S = 1.0
TELL_S = 0.25  # after which others can see what has changed
SPARE_DESCRIPTORS = 24  # for connections, and for what libzmq and a file of our own need


class SpoolFolder:
    """All files that we hold. What goes wrong raises OSError and sqlite3.Error."""

    def __init__(self, directory: str) -> None:
        """Begin a file of our own in `directory`, which is made where it is missing.

        Where the disk is full, that has to wait: what lies there can be sent all the same.
        """
        self._directory = os.path.abspath(directory)
        allow_open_files()
        self.own: SpoolFile | None = None
        self.files: list[SpoolFile] = []
        self._will_tell = False
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            refuse_strangers(self._directory, os.stat(self._directory), or_root=True)
            refuse_small_disk(self._directory)
            self.begin_anew()
        except (OSError, sqlite3.Error) as error:
            if not is_for_now(error):
                raise
        self.left_behind: collections.deque[SpoolFile] = collections.deque()  # not loaded whole
        self._refused: set[str] = set()  # paths that cannot be opened
        self._told: set[str] = set()  # paths that cannot be opened just now
        self.is_waiting = False  # for one of those, or for descriptors
        self._look_at = 0.0  # time.monotonic(), for files of others
        self._will_look = False  # though nothing else happens

    def changed(self) -> None:
        """More waits, or less: others can see that in a moment."""
        if not self._will_tell:
            self._will_tell = True
            asyncio.get_running_loop().call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        self._will_tell = False
        for file in self.files:
            file.tell()

    def will_go_on(self) -> bool:
        """Whether there are more files, for which those that we hold have to go first."""
        return self.is_waiting and any(file is not self.own for file in self.files)

    def begin_anew(self) -> None:
        """Begin a file of our own; the one before was lost, if there was any."""
        if self.is_short():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.own = SpoolFile.create(self._directory)
        self.files.append(self.own)
        self.changed()

    def retire_own(self, until: int) -> None:
        """Our own file could not be synced: begin another for what comes after `until`."""
        if self.own:
            self.own.until = until
            self.left_behind.append(self.own)
        self.own = None

    def is_short(self) -> bool:
        """Whether the disk has no more than what is left free for deleting."""
        try:
            disk = os.statvfs(self._directory)
        except OSError:  # it was taken away
            return False
        return disk.f_bavail * disk.f_frsize < DISK_RESERVE

    def adopt(self, announce: Callable[[], None]) -> int:
        """Take over the files that nobody holds, oldest first; returns the bytes they have.

        Nothing waits then: disk is given back, too. Not more often than once a second; `announce`
        is called when it is time to look again.
        """
        now = time.monotonic()
        if now < self._look_at:
            self._look_again(self._look_at - now, announce)
            return 0
        self.is_waiting = False
        with contextlib.suppress(OSError, sqlite3.Error):  # then the next time
            if self.own:
                self.own.shrink()
        adopted = [file for file in map(self._adopted, self._paths_of_others()) if file]
        if not self.left_behind:
            self._look_at = now + LOOK_INTERVAL_S
        if self.is_waiting:
            self._look_again(RETRY_INTERVAL_S, announce)
        if adopted:
            self.changed()
        return sum(file.size for file in adopted)

    def _look_again(self, delay_s: float, announce: Callable[[], None]) -> None:
        if not self._will_look:
            self._will_look = True
            asyncio.get_running_loop().call_later(delay_s, self._look_now, announce)

    def _look_now(self, announce: Callable[[], None]) -> None:
        self._will_look = False  # whatever comes of it
        announce()

    def _paths_of_others(self) -> list[str]:
        ours = {file.path for file in self.files}
        try:
            names = sorted(os.listdir(self._directory))
        except OSError:
            return []  # it was taken away; it comes back with what is put next
        paths = [os.path.join(self._directory, name) for name in names]
        return [path for path in paths if path.endswith(SpoolFile.SUFFIX) and path not in ours]

    def _adopted(self, path: str) -> SpoolFile | None:
        if path in self._refused or len(self.left_behind) >= MOST_LEFT_BEHIND:
            return None
        try:
            if free_descriptors() < SPARE_DESCRIPTORS:
                self.is_waiting = True
                return None
            file = SpoolFile.adopt(path)
        except FileNotFoundError:  # somebody else was quicker
            return None
        except (OSError, sqlite3.Error) as error:
            if is_for_now(error):
                self.is_waiting = True
                if path not in self._told:
                    self._told.add(path)
                    zmqpush.say(f"{path}: {reason(error)}; it is tried again")
                return None
            self._refused.add(path)
            if is_damage(error):
                put_aside(path, error)
            else:
                zmqpush.say(f"{path}: {reason(error)}; it is left alone")
            return None
        if file:
            self.files.append(file)
            self.left_behind.append(file)
        return file

    def stay_in_place(self) -> None:
        """Where files of ours were taken away, write what they had to new ones, in their order."""
        for file in sorted(self.files, key=lambda file: file.path):
            if not file.is_in_place():
                file.move()
                zmqpush.say(f"the spool was taken away; what it had to send is in {file.path} now")

    def let_go(self, file: SpoolFile) -> None:
        """Close and remove `file` if all of it is gone and nothing will come."""
        finished = not file.held and file not in self.left_behind
        if finished and file is not self.own and not file.closed:
            self.files.remove(file)
            with contextlib.suppress(OSError, sqlite3.Error):
                file.close()

    def discard(self, file: SpoolFile, gone: int) -> bool:
        """Remove `file` as it is if all that it has is `gone`: so many rows, not deleted yet.

        Where the disk is full to the last byte, nothing can be deleted in it.
        """
        if file.closed or file.events or file.held != gone or file in self.left_behind:
            return False
        self.files.remove(file)
        if file is self.own:
            self.own = None
        with contextlib.suppress(OSError):
            file.remove()
        return True

    def put_aside(self, file: SpoolFile, error: sqlite3.Error) -> None:
        """`file` is damaged: go on without it."""
        self.files.remove(file)
        with contextlib.suppress(ValueError):
            self.left_behind.remove(file)
        file.let_go()
        put_aside(file.path, error)

    def close(self) -> None:
        """Close all files, and remove those that are empty."""
        for file in self.files:
            with contextlib.suppress(OSError, sqlite3.Error):  # then who comes next has to see
                file.close()

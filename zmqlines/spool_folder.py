"""The files of a spool's directory: our own, and what others have left behind there."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable

import zmqpush
from zmqlines.descriptors import allow_open_files
from zmqlines.spool_file import SpoolFile, is_damage, put_aside, reason

MOST_LEFT_BEHIND = 64  # files that are taken over at once
LOOK_INTERVAL_S = 1.0


class SpoolFolder:
    """All files that we hold. What goes wrong raises OSError and sqlite3.Error."""

    def __init__(self, directory: str) -> None:
        """Begin a file of our own in `directory`, which is made where it is missing."""
        self._directory = os.path.abspath(directory)
        allow_open_files()
        self.own = SpoolFile.create(self._directory)
        self.files = [self.own]
        self.left_behind: collections.deque[SpoolFile] = collections.deque()  # not loaded whole
        self._refused: set[str] = set()  # paths that cannot be opened
        self._look_at = 0.0  # time.monotonic(), for files of others
        self._will_look = False  # though nothing else happens

    def begin_anew(self) -> None:
        """Our own file was lost: begin another."""
        self.own = SpoolFile.create(self._directory)
        self.files.append(self.own)

    def adopt(self, announce: Callable[[], None]) -> int:
        """Take over the files that nobody holds, oldest first; returns the bytes they have.

        Nothing waits then: disk is given back, too. Not more often than once a second; `announce`
        is called when it is time to look again.
        """
        now = time.monotonic()
        if now < self._look_at:
            if not self._will_look:
                self._will_look = True
                asyncio.get_running_loop().call_later(self._look_at - now, announce)
            return 0
        self._will_look = False
        with contextlib.suppress(OSError, sqlite3.Error):  # then the next time
            self.own.shrink()
        adopted = [file for file in map(self._adopted, self._paths_of_others()) if file]
        if not self.left_behind:
            self._look_at = now + LOOK_INTERVAL_S
        return sum(file.size for file in adopted)

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
            file = SpoolFile.adopt(path)
        except FileNotFoundError:  # somebody else was quicker
            return None
        except (OSError, sqlite3.Error) as error:
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

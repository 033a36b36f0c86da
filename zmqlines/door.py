"""The listening sockets of a collector, which are shut while there are no descriptors left.

libzmq tries to accept who waits at the door, all the time, and cannot while as many files are open
as may be. To unbind would cut off all who are inside. So a socket filter (socket(7)) drops those
who knock; TCP tries again for them. Those who are in the queue already are let in: for them the
soft limit is kept below the hard one until then.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
import struct

from zmqlines.descriptors import open_files

LONGEST_QUEUE = 100  # of those that wait to be accepted
SPARE = 16  # descriptors, for files
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h; Python has no names for them
DROP = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF: return 0 bytes of the packet


class Door:
    """Open, or shut for want of descriptors."""

    def __init__(self) -> None:
        _, self.most = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.queue = min(LONGEST_QUEUE, self.most // 4)
        self._few = self.most - self.queue - min(SPARE, self.most // 8)  # for connections
        self._listeners: list[socket.socket] = []
        self.is_shut = False
        self._allow(self._few)

    def listens(self, descriptor: int) -> None:
        """There is a listening socket; it stays libzmq's.

        What shuts it is a descriptor of our own: when that is needed, none may be left.
        """
        with contextlib.suppress(OSError):
            listener = socket.socket(fileno=os.dup(descriptor))
            if listener.family in (socket.AF_INET, socket.AF_INET6):  # the others have no filters
                self._listeners.append(listener)

    def shut(self) -> None:
        """Somebody could not be accepted."""
        for listener in self._listeners:
            program = ctypes.create_string_buffer(DROP)
            listener.setsockopt(
                socket.SOL_SOCKET,
                SO_ATTACH_FILTER,
                struct.pack("@HP", 1, ctypes.addressof(program)),
            )
        self._allow(self.most)
        self.is_shut = True

    def open_if_there_is_room(self) -> None:
        """Somebody has gone."""
        if self.is_shut and open_files() < self._few - SPARE // 4:
            self._allow(self._few)
            self.is_shut = False
            for listener in self._listeners:
                listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def _allow(self, files: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, self.most))

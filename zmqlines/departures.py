"""What has left this machine over one connection: what was sent, and what the kernel tells of it.

    chunks --> libzmq's pipe --> its buffer --> the kernel's send buffer --> the other kernel
               SNDHWM messages   8 kB           SIOCOUTQ                     acknowledged (TCP)

A connection is a FIFO: a chunk has left it when what was sent after it is more than all of these
can hold. That is seen from our end of it, so what is known is that the other machine's kernel has
it (over a Unix socket: that the collector has read it).
"""

from __future__ import annotations

import collections
import fcntl
import math
import os
import select
import socket
import struct
import termios
from typing import NamedTuple

from zmqlines.spool_file import SpoolFile
from zmqpush import OUT_BATCH_SIZE

BYTES_ACKED_AT = 120  # tcpi_bytes_acked in Linux's struct tcp_info, since 4.1
TCP_INFO_SIZE = 256  # bytes, at least
LONGEST_SHORT = 255  # bytes of a message whose length is one byte on the wire (RFC 23)
SHORT_HEAD, LONG_HEAD = 2, 9  # bytes before a message on the wire
HANDSHAKE_SIZE = 92  # bytes that a PUSH socket sends before its first message: greeting and READY


class Sent(NamedTuple):
    """A chunk that libzmq took, and where it stands among those that its connection was given."""

    file: SpoolFile
    number: int
    events: int
    size: int
    messages: int  # up to it, it included
    bytes: int  # as sizes of chunks, which are less than on the wire
    wire: int  # bytes as on the wire


def wire_size(messages: list[bytes], size: int) -> int:
    """Bytes that `messages` take in ZMTP 3, without encryption; `size` is that of their chunk."""
    bare = size - len(messages)
    if max(map(len, messages)) <= LONGEST_SHORT:
        return bare + SHORT_HEAD * len(messages)
    heads = (LONG_HEAD if len(message) > LONGEST_SHORT else SHORT_HEAD for message in messages)
    return bare + sum(heads)


class Descriptor:
    """A descriptor of our own for a connection of libzmq's: it outlives that one.

    A number that libzmq closes is soon given to another connection, of which nothing must be
    concluded.
    """

    def __init__(self, theirs: int, is_ours: bool) -> None:
        """`is_ours`: we connected. Raises OSError."""
        self._theirs = theirs
        self._ours = os.dup(theirs)
        self._connection = socket.socket(fileno=self._ours)  # later there may be none to spare
        self._socket = os.fstat(self._ours)
        self._poll = select.poll()
        self._poll.register(self._ours, select.POLLRDHUP)
        self.first = HANDSHAKE_SIZE + is_ours  # Linux counts the SYN of who connects

    def _is_theirs(self) -> bool:
        """Whether libzmq still has it open."""
        try:
            return os.path.samestat(self._socket, os.fstat(self._theirs))
        except OSError:
            return False

    def has_ended(self) -> bool:
        """Whether the other end is gone, or nobody has answered for too long."""
        return bool(self._poll.poll(0))

    def queued(self) -> int:
        """Bytes in the kernel that the other one has not acknowledged (SIOCOUTQ, tcp(7))."""
        (count,) = struct.unpack("i", fcntl.ioctl(self._ours, termios.TIOCOUTQ, bytes(4)))
        return int(count)

    def acknowledged(self) -> int | None:
        """Bytes that the other kernel has acknowledged so far; None where nobody tells."""
        if self._connection.family == socket.AF_UNIX:
            return None
        info = self._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
        if len(info) < BYTES_ACKED_AT + 8:
            return None
        return int(struct.unpack_from("Q", info, BYTES_ACKED_AT)[0])

    def in_kernel(self) -> float:
        """Bytes that are still in this kernel; infinite where that says nothing (any more)."""
        queued = self.queued()
        return math.inf if self.has_ended() or not self._is_theirs() else queued

    def close(self) -> None:
        self._connection.close()


class Departures:
    """The chunks that one connection was given, in their order, until they have left."""

    def __init__(self, sndhwm: int) -> None:
        self._pipe = sndhwm + 1  # messages; one may be between the pipe and the buffer
        self._messages = self._bytes = self._wire = 0
        self._in_pipe: collections.deque[Sent] = collections.deque()  # perhaps
        self._beyond: collections.deque[Sent] = collections.deque()  # of libzmq's pipe
        self._beyond_bytes = 0  # up to there nothing is in it

    def add(self, file: SpoolFile, number: int, events: int, size: int, all_: list[bytes]) -> None:
        """A chunk was taken by libzmq as the messages `all_`."""
        self._messages += len(all_)
        self._bytes += size
        self._wire += wire_size(all_, size)
        if len(all_) >= self._pipe:  # only the last of these can be in the pipe
            in_pipe = sum(map(len, all_[-self._pipe :])) + self._pipe
            self._beyond_bytes = max(self._beyond_bytes, self._bytes - in_pipe)
        place = self._messages, self._bytes, self._wire
        self._in_pipe.append(Sent(file, number, events, size, *place))

    def left(self, in_kernel: float) -> list[Sent]:
        """Those that have left while the kernel has so many bytes; they are told once."""
        while self._in_pipe and self._in_pipe[0].messages <= self._messages - self._pipe:
            self._beyond.append(self._in_pipe.popleft())
            self._beyond_bytes = max(self._beyond_bytes, self._beyond[-1].bytes)
        gone = []
        while self._beyond and self._beyond_bytes - self._beyond[0].bytes >= (
            in_kernel + OUT_BATCH_SIZE
        ):
            gone.append(self._beyond.popleft())
        return gone

    def is_waiting(self, in_pipe: bool) -> bool:
        """Whether some only wait for the kernel, or (`in_pipe`) any at all."""
        return bool(self._beyond or (in_pipe and self._in_pipe))

    def first_on_wire(self, size: int) -> list[Sent]:
        """Those that are in the first `size` bytes on the wire; they are told once."""
        gone = []
        for queue in (self._beyond, self._in_pipe):
            while queue and queue[0].wire <= size:
                gone.append(queue.popleft())
        return gone

    def wire(self) -> int:
        """Bytes on the wire that all of them are."""
        return self._wire

    def rest(self) -> list[Sent]:
        """Those that may not have left; they are told once."""
        rest = [*self._beyond, *self._in_pipe]
        self._beyond.clear()
        self._in_pipe.clear()
        return rest

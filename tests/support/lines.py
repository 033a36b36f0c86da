"""Lines to ship, and writing them until the shipper takes no more."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterator

from tests.support.net import unread
from tests.support.proc import wait_until_asleep
from tests.support.programs import Shipper
from tests.support.waiting import DEADLINE_S, wait_until


def lines(count: int, size: int = 8, start: int = 0) -> list[bytes]:
    """Numbered lines of `size` bytes, without their line ends."""
    return [b"%0*d" % (size, number) for number in range(start, start + count)]


def text(lines: list[bytes]) -> bytes:
    """The lines as they are written, each with its line end."""
    return b"".join(line + b"\n" for line in lines)


def wait_until_pipe_is_empty(shipper: Shipper) -> None:
    """Wait until it has read all that was written: what is written then is in another read."""
    assert shipper.process.stdin
    descriptor = shipper.process.stdin.fileno()
    wait_until(lambda: not unread(descriptor), "the pipe is empty")


BLOCK = text(lines(1000, size=99))


def fill(shipper: Shipper, most: int) -> int:
    """Write lines until `most` bytes are taken or nothing more is; return how many bytes were."""
    assert shipper.process.stdin
    descriptor = shipper.process.stdin.fileno()
    written = 0
    os.set_blocking(descriptor, False)
    try:
        while written < most:
            try:
                written += os.write(descriptor, BLOCK[written % len(BLOCK) :])
            except BlockingIOError:
                if select.select([], [descriptor], [], 0.1)[1]:
                    continue
                held = unread(descriptor)
                wait_until_asleep(shipper.pid)
                if unread(descriptor) == held:
                    return written
        wait_until_pipe_is_empty(shipper)
        wait_until_asleep(shipper.pid)
    finally:
        os.set_blocking(descriptor, True)
    return written


def filled(written: int) -> list[bytes]:
    """The lines of which `fill` has written so many bytes; the last one is not ended, or empty."""
    return (BLOCK * (written // len(BLOCK) + 1))[:written].split(b"\n")


@contextlib.contextmanager
def in_background(write: Callable[[], None], shipper: Shipper) -> Iterator[None]:
    """Write on a thread, for the writer may be held back; at the end all of it is taken."""

    def write_what_can_be() -> None:
        with contextlib.suppress(BrokenPipeError):
            write()

    writing = threading.Thread(target=write_what_can_be)
    writing.start()
    try:
        yield
        writing.join(DEADLINE_S)
        assert not writing.is_alive(), "the writer is still held back"
    finally:
        if writing.is_alive():
            shipper.process.kill()
        writing.join()


def written_in_background(shipper: Shipper, data: bytes) -> contextlib.AbstractContextManager[None]:
    """`data` is written by a thread while the body runs."""
    return in_background(lambda: shipper.write(data), shipper)

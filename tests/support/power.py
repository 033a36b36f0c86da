"""A loss of power, played with what strace(1) has recorded of a program.

On the disk is then, of each file, what it had when it was last synced; and of each folder, the
names that it had when that was. Of what was written since, any part may be there as well.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import python_by
from tests.support.waiting import wait_until

CHANGES = "write,pwrite64,ftruncate,rename,unlink,openat,mkdir"
SYNCS = "fsync,fdatasync"
ANSWERS = "sendto"  # libzmq's
NOT_PLAYED = "writev,pwritev,pwritev2,fallocate,renameat,renameat2,unlinkat,link,creat,truncate"
CALL = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)")
RESULT = re.compile(r"\) += (-?\d+).*")
PLACE = r"(\d+)<([^>]*)>(?:\(deleted\))?"
TEXT = r'"([^"]*)"'
#: What becomes of what was written and not synced.
HOWS = ("none of it", "some of it", "all of it")


def recorded(folder: Path) -> tuple[str, Path]:
    """A Python that is recorded, in the same process, and where."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    log = folder / "strace.log"
    calls = ",".join((CHANGES, SYNCS, ANSWERS, NOT_PLAYED))
    options = ["-D", "-f", "-y", "-xx", "-s", "100000000", "-e", f"trace={calls}", "-o", str(log)]
    return python_by(folder, shlex.join(["strace", *options])), log


def plain(hexadecimal: str) -> bytes:
    """What strace -xx shows as `\\x61\\x62`."""
    return bytes.fromhex(hexadecimal.replace("\\x", ""))


class Inode:
    """A file, by whatever name."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.synced = b""
        self.since: list[tuple[int, bytes] | int] = []  # writes, and sizes, since then

    def write(self, at: int, data: bytes) -> None:
        self.data += bytes(max(0, at - len(self.data)))
        self.data[at : at + len(data)] = data
        self.since.append((at, data))

    def truncate(self, size: int) -> None:
        del self.data[size:]
        self.data += bytes(size - len(self.data))
        self.since.append(size)

    def after(self, how: str, chance: random.Random) -> bytes:
        """What is there when the power is back."""
        if how == "all of it":
            return bytes(self.data)
        survivor = Inode()
        survivor.data += self.synced
        for change in self.since if how == "some of it" else ():
            if chance.random() < 0.5:
                continue
            if isinstance(change, int):
                survivor.truncate(change)
            else:
                survivor.write(*change)
        return bytes(survivor.data)


class Disk:
    """A folder, and the files in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.fsencode(folder)
        self.names: dict[str, Inode] = {}
        self._synced_names: dict[str, Inode] = {}

    def name_of(self, path: bytes) -> str:
        """In the folder; empty for another path. What only shares memory is no file."""
        folder, name = os.path.split(path)
        is_here = folder == self._folder and not name.endswith(b"-shm")
        return os.fsdecode(name) if is_here else ""

    def begin_sync(self, path: bytes) -> list[tuple[Inode, bytes, int]] | dict[str, Inode] | None:
        """What will be on the disk when a sync of `path`, which begins now, has ended."""
        if path == self._folder:
            return dict(self.names)
        if self.name_of(path) not in self.names:
            return None
        inode = self.names[self.name_of(path)]
        return [(inode, bytes(inode.data), len(inode.since))]

    def end_sync(self, begun: list[tuple[Inode, bytes, int]] | dict[str, Inode] | None) -> None:
        if isinstance(begun, dict):
            self._synced_names = begun
        for inode, data, changes in begun if isinstance(begun, list) else ():
            inode.synced = data
            del inode.since[:changes]

    def change(self, call: str, words: str, result: int) -> None:
        """A call that has ended well."""
        if call == "openat":
            path = plain(re.findall(TEXT, words)[0])
            name = self.name_of(path)
            if name and "O_CREAT" in words:
                self.names.setdefault(name, Inode())
            if name and "O_TRUNC" in words:
                self.names[name].truncate(0)
        elif call in ("unlink", "rename"):
            names = [self.name_of(plain(text)) for text in re.findall(TEXT, words)]
            inode = self.names.pop(names[0], None) if names[0] else None
            if inode and call == "rename" and names[1]:
                self.names[names[1]] = inode
        elif call in ("write", "pwrite64", "ftruncate"):
            place = re.match(PLACE, words)
            inode = self.names.get(self.name_of(plain(place[2]))) if place else None
            if not inode:
                return
            last = int(words.rpartition(", ")[2])
            if call == "ftruncate":
                inode.truncate(last)
            else:
                data = plain(re.findall(TEXT, words)[0])[:result]
                inode.write(last if call == "pwrite64" else len(inode.data), data)
        else:
            assert call == "mkdir" or os.fsencode(self._folder).hex() not in words.replace(
                "\\x", ""
            ), f"{call} is not played: {words[:200]}"

    def rebuild(self, folder: Path, how: str, chance: random.Random) -> None:
        """Make `folder` what this one is when the power is back."""
        folder.mkdir(mode=0o700)
        for name, inode in (self.names if how == "all of it" else self._synced_names).items():
            (folder / name).write_bytes(inode.after(how, chance))


def wait_until_whole(log: Path, pid: int) -> None:
    """Wait until all is recorded of a process that has ended."""
    end = re.compile(rf"^{pid} +\+\+\+ .*\n", re.M)
    wait_until(lambda: end.search(log.read_text("ascii")), "recorded")


def answers(log: Path, folder: Path) -> Iterator[tuple[str, bytes, Disk]]:
    """Each thing that the program said to others, and `folder` as its disk was when it began to.

    What is said is the kind of descriptor (such as `pipe` or `socket`), and the bytes.
    """
    disk = Disk(folder)
    unfinished: dict[str, str] = {}
    begun: dict[str, list[tuple[Inode, bytes, int]] | dict[str, Inode] | None] = {}
    with log.open(encoding="ascii") as lines:
        for line in lines:
            match = CALL.match(line)
            if not match:  # of a signal, or an end
                continue
            thread, call, words = match.groups()
            is_beginning = "resumed>" not in line[: match.start(3)]
            if is_beginning and call in SYNCS.split(","):
                place = re.match(PLACE, words)
                begun[thread] = disk.begin_sync(plain(place[2])) if place else None
            if is_beginning and call in ("write", "sendto"):
                place, text = re.match(PLACE, words), re.search(TEXT, words)
                kind = plain(place[2]).partition(b":")[0] if place else b""
                if text and not kind.startswith(b"/"):
                    yield kind.decode(), plain(text[1]), disk
            if words.endswith("<unfinished ...>"):
                unfinished[thread] = words[: -len("<unfinished ...>")].rstrip()
                continue
            if not is_beginning:
                words = unfinished.pop(thread) + words.lstrip()
            result = RESULT.search(words)
            if not result or int(result[1]) < 0:
                continue
            if call in SYNCS.split(","):
                disk.end_sync(begun.pop(thread))
            elif call != "sendto":
                disk.change(call, words[: result.start()], int(result[1]))

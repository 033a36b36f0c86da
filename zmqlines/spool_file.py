"""A file of the spool: chunks on disk, which outlive the process that wrote them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import math
import os
import sqlite3
import stat
import time

import zmqpush
from zmqlines.finished import Finished
from zmqlines.spool_state import State, forget_state

DISK_RESERVE = 8 * 1024 * 1024  # bytes
SMALLEST_SPOOL = 1024 * 1024  # bytes
LOAD_SIZE = 1024 * 1024  # bytes that are brought into memory at once
LOG_SUFFIX = "-wal"  # of SQLite's write-ahead log


def open_and_lock(path: str, flags: int = 0) -> int | None:
    """A descriptor that holds the lock of the file at `path`; None where another holds it.

    Raises OSError.
    """
    try:
        descriptor = os.open(path, flags | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # whoever held it has removed it
        return None
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_file_at(path, descriptor):
            return descriptor
    os.close(descriptor)
    return None


def is_file_at(path: str, descriptor: int) -> bool:
    """Whether the file at `path` is the one that `descriptor` has open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def next_in(directory: str) -> str:
    """What begins the name of a new file: a number after all that are there, whatever the time is.

    Files are sent in the order of their names.
    """
    places = [name.partition(".")[0] for name in os.listdir(directory)]
    return f"{max((int(place) for place in places if place.isdecimal()), default=0) + 1:010}"


def sync_directory(path: str) -> None:
    """Return when the names of the files in it are on the disk (fsync(2)). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_database(path: str) -> None:
    """Remove an SQLite database that nobody has open, and its write-ahead log. Raises OSError."""
    os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + LOG_SUFFIX)


def put_aside(path: str, error: Exception) -> None:
    """Give a damaged database another name, under which nobody looks for it."""
    zmqpush.say(f"{path} is damaged ({error}): it is kept as {path}.damaged")
    for suffix in ("", LOG_SUFFIX):
        with contextlib.suppress(OSError):
            os.rename(path + suffix, path + ".damaged" + suffix)


def reason(error: Exception) -> str:
    """What the system or SQLite says."""
    return getattr(error, "strerror", None) or str(error)


FOR_NOW = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
SQLITE_FOR_NOW = (  # the last one is also what it says where it gets no descriptor
    "database or disk is full",
    "disk I/O error",
    "out of memory",
    "unable to open database file",
)


def is_for_now(error: Exception) -> bool:
    """Whether it may work later, as when others have made room on the disk."""
    if isinstance(error, OSError):
        return error.errno in FOR_NOW
    return str(error) in SQLITE_FOR_NOW


def refuse_small_disk(directory: str) -> None:
    """Raise OSError where the disk could never have room for a line."""
    disk = os.statvfs(directory)
    size = disk.f_blocks * disk.f_frsize
    if 0 < size < DISK_RESERVE + SMALLEST_SPOOL:
        raise OSError(
            errno.EFBIG,
            f"its disk has {size / 1e6:.1f} MB, of which {DISK_RESERVE / 1e6:.1f} MB are left "
            f"free: it needs {(DISK_RESERVE + SMALLEST_SPOOL) / 1e6:.1f} MB at least",
        )


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file is no good, not that it cannot be used just now."""
    return type(error) is sqlite3.DatabaseError


class NotOurs(sqlite3.Error):
    """A file that is whole, but that this program has not made: the message says why."""


def refuse_strangers(path: str, found: os.stat_result, or_root: bool = False) -> None:
    """Raise PermissionError where somebody else owns a file or directory: it may be a trap."""
    if found.st_uid != os.geteuid() and not (or_root and found.st_uid == 0):
        raise PermissionError(
            errno.EPERM, f"it belongs to user {found.st_uid}, and this is {os.geteuid()}", path
        )


class SpoolFile:
    """Chunks on disk: SQLite in WAL mode, locked (flock(2)) by the process that holds it.

    Its rows are chunks of finished messages, so that whoever sends them, they are as they were
    meant. A number is never used again. What is appended outlives the process at once, and a loss
    of power after `sync()`. All methods raise sqlite3.Error, and OSError.
    """

    SUFFIX = ".spool"
    PAGE_SIZE = 8 * 1024  # bytes
    APPLICATION = 0x7A6D7170  # PRAGMA application_id, which file(1) shows: "zmqp"
    VERSION = 2  # PRAGMA user_version: of what is below MADE
    SETTINGS = f"""
        PRAGMA locking_mode = EXCLUSIVE;  -- the first one, for no -shm file to be made
        PRAGMA page_size = {PAGE_SIZE};
        PRAGMA journal_mode = WAL;
        PRAGMA wal_autocheckpoint = 256;  -- pages
        PRAGMA cache_size = -4000;  -- kB: what is deleted soon need not be read again for that
        PRAGMA secure_delete = OFF;  -- Debian zeroes what is deleted
        PRAGMA synchronous = NORMAL;  -- syncs before a checkpoint; sync() does it when it matters
    """
    MADE = f"""
        BEGIN IMMEDIATE;
        CREATE TABLE shipper (id TEXT NOT NULL);
        INSERT INTO shipper SELECT lower(hex(randomblob({zmqpush.SHIPPER_SIZE})));
        CREATE TABLE chunk (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            events INTEGER NOT NULL,
            batch INTEGER NOT NULL,  -- events in a message
            kept_at INTEGER NOT NULL,  -- seconds since the epoch
            crc INTEGER NOT NULL,  -- CRC-32 of the text
            text BLOB NOT NULL  -- the messages, with LF between them
        );
        PRAGMA application_id = {APPLICATION};
        PRAGMA user_version = {VERSION};
        COMMIT;
    """
    TABLES = (("table", "chunk"), ("table", "shipper"), ("table", "sqlite_sequence"))

    def __init__(self, path: str, lock: int) -> None:
        """Open the file at `path`, which the descriptor `lock` has locked; both are ours then."""
        self.path = path
        self._lock = lock
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._db.executescript(self.SETTINGS)
            self._make_or_know()
            self.events: int  # not sent yet
            self.size: int  # of those, in bytes
            self.events, self.size, first, last, count = self._db.execute(
                "SELECT coalesce(sum(events), 0), coalesce(sum(length(text) + 1), 0), "
                "coalesce(min(number), 1), coalesce(max(number), 0), count(*) FROM chunk"
            ).fetchone()
            self._id = self._read_id()
            self._ends = self._read_ends(last) if count != last - first + 1 else []
            self._log = os.open(path + LOG_SUFFIX, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, sqlite3.Error):
            self._db.close()
            raise
        self.closed = False
        self._is_adopted = False  # another process had it, and may have sent what is in it
        self.loaded = first - 1  # number of the last chunk that was loaded
        self.until = math.inf  # the last number that is to be loaded
        self.held = 0  # how many were loaded and are not deleted
        self._told = -1, -1  # of events and size, to others

    @classmethod
    def create(cls, directory: str) -> SpoolFile:
        """A new one in `directory`, which is made where it is missing."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        path, lock = cls._new(directory, next_in(directory))
        try:
            file = cls(path, lock)
            file.sync()
            sync_directory(directory)
        except (OSError, sqlite3.Error):
            remove_database(path)
            os.close(lock)
            raise
        return file

    @classmethod
    def adopt(cls, path: str) -> SpoolFile | None:
        """The one at `path`; None where another process holds it, or it is no file at all."""
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            return None
        refuse_strangers(path, found)
        lock = open_and_lock(path)
        if lock is None:
            return None
        try:
            file = cls(path, lock)
        except (OSError, sqlite3.Error):
            os.close(lock)
            raise
        forget_state(path)  # which another told, who is gone
        file._is_adopted = True
        return file

    @classmethod
    def _new(cls, directory: str, place: str) -> tuple[str, int]:
        """The path and the locked descriptor of a new, empty file with that place in the order."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        for number in itertools.count():  # until nobody has that name, nor was quicker to adopt it
            path = os.path.join(directory, f"{place}.{number}-{os.getpid()}{cls.SUFFIX}")
            with contextlib.suppress(FileExistsError):
                lock = open_and_lock(path, os.O_CREAT | os.O_EXCL)
                if lock is not None:
                    return path, lock
        raise AssertionError

    def _make_or_know(self) -> None:
        """Make the tables of a new file; raise NotOurs where they are not what we would make."""
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        tables = tuple(self._db.execute("SELECT type, name FROM sqlite_master ORDER BY name"))
        if not (application or version or tables):
            self._db.executescript(self.MADE)
        elif application != self.APPLICATION:
            raise NotOurs("it is no spool of this program")
        elif version > self.VERSION:
            raise NotOurs(
                f"it has version {version} of the format; this program knows {self.VERSION}"
            )
        elif tables != self.TABLES:  # a view could have no end
            raise NotOurs("it has other tables than a spool")

    def _read_id(self) -> bytes:
        (name,) = self._db.execute("SELECT id FROM shipper").fetchone()
        with contextlib.suppress(TypeError, ValueError):
            shipper = bytes.fromhex(name)
            if len(shipper) == zmqpush.SHIPPER_SIZE:
                return shipper
        raise sqlite3.DatabaseError("the shipper's id is not as it was written")

    def _read_ends(self, last: int) -> list[int]:
        """The numbers before `last` after which some are missing: collectors shared them."""
        ends = (
            "SELECT number FROM chunk AS c WHERE number < ? AND NOT EXISTS "
            "(SELECT 1 FROM chunk WHERE number = c.number + 1) ORDER BY number"
        )
        return [number for (number,) in self._db.execute(ends, (last,))]

    def shipper_of(self, number: int) -> bytes:
        """Whose the chunk is for a collector that acknowledges: it takes numbers without a gap.

        So what comes before a gap is somebody else's, whose name its last number makes.
        """
        for end in self._ends:
            if number <= end:
                name = self._id + end.to_bytes(8, "big")
                return hashlib.blake2b(name, digest_size=zmqpush.SHIPPER_SIZE).digest()
        return self._id

    def append(self, chunk: Finished) -> None:
        """Add `chunk` and number it, or raise.

        A part of the disk is left free: without, nothing could be deleted either.
        """
        if self._disk_is_full(chunk.size):
            with contextlib.suppress(sqlite3.Error):  # for that, too, there must be some room
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if self._disk_is_full(chunk.size):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        insert = "INSERT INTO chunk (kept_at, events, batch, crc, text) VALUES (?, ?, ?, ?, ?)"
        number = self._db.execute(insert, (int(time.time()), *chunk.row())).lastrowid
        assert number is not None
        chunk.file, chunk.number = self, number
        self.events += chunk.count()
        self.size += chunk.size

    def _disk_is_full(self, size: int) -> bool:
        disk = os.fstatvfs(self._lock)
        short = disk.f_bavail * disk.f_frsize < DISK_RESERVE + size
        return short and self._free() * self.PAGE_SIZE < size

    def take_back(self, chunks: list[Finished]) -> None:
        """Delete `chunks`, which were appended and not loaded."""
        for chunk in chunks:
            self.events -= chunk.count()
            self.size -= chunk.size
        if chunks and not self.closed:
            numbers = [(chunk.number,) for chunk in chunks]
            self._db.executemany("DELETE FROM chunk WHERE number = ?", numbers)
            # Nobody has seen these numbers: without a gap they are used again.
            rewind = "UPDATE sqlite_sequence SET seq = ? WHERE name = 'chunk' AND seq = ?"
            self._db.execute(rewind, (min(numbers)[0] - 1, max(numbers)[0]))

    def state(self) -> State:
        """What waits here."""
        row = None
        with contextlib.suppress(sqlite3.OperationalError):  # version 1 knew no time
            select = "SELECT kept_at FROM chunk WHERE ? ORDER BY number LIMIT 1"
            row = self._db.execute(select, (self.events > 0,)).fetchone()
        return State(os.getpid(), self.events, self.size, row[0] if row else 0)

    def tell(self) -> None:
        """Let others know what waits here: while we hold the file, nobody else can read it."""
        if not self.closed and self._told != (self.events, self.size):
            self._told = self.events, self.size
            with contextlib.suppress(OSError, sqlite3.Error):  # what only tells stops nothing
                self.state().write(self.path)

    def sync(self) -> None:
        """Return when what was appended is on the disk. On any thread.

        If that fails, it proves nothing to try again: Linux forgets what it could not write.
        """
        os.fdatasync(self._log)

    def load(self, until: float = math.inf) -> list[Finished]:
        """The next chunks up to the number `until`, about LOAD_SIZE bytes.

        What is damaged is met after all that is not.
        """
        select = "SELECT number, events, batch, crc, text FROM chunk WHERE number > ? ORDER BY 1"
        chunks: list[Finished] = []
        size = 0
        try:
            nothing = self.closed or self.loaded >= until
            for number, *row in () if nothing else self._db.execute(select, (self.loaded,)):
                if number > until or size >= LOAD_SIZE:
                    break
                chunk = Finished.of_row(*row)
                chunk.file, chunk.number = self, number
                chunks.append(chunk)
                size += chunk.size
                self.loaded = number
                self.held += 1
        except (sqlite3.DatabaseError, ValueError) as error:
            if not chunks:
                if isinstance(error, ValueError):
                    raise sqlite3.DatabaseError(
                        f"chunk {number} is not as it was written"
                    ) from None
                raise
        return chunks

    def read(self, number: int) -> Finished:
        """The chunk of that number, once more."""
        select = "SELECT events, batch, crc, text FROM chunk WHERE number = ?"
        row = self._db.execute(select, (number,)).fetchone()
        try:
            chunk = Finished.of_row(*row) if row else None
        except ValueError:
            chunk = None
        if not chunk:
            raise sqlite3.DatabaseError(f"chunk {number} is not as it was written")
        chunk.file, chunk.number = self, number
        return chunk

    def forget(self, numbers: list[int]) -> None:
        """Delete these chunks, which were loaded; takes out of `numbers` what is done."""
        delete = "DELETE FROM chunk WHERE number BETWEEN ? AND ?"
        numbers.sort()
        while numbers:
            first, count = numbers[0], 1
            while count < len(numbers) and numbers[count] == first + count:
                count += 1
            if not self.closed:
                self._db.execute(delete, (first, first + count - 1))
            self.held -= count
            del numbers[:count]

    def is_emptied(self, number: int) -> bool:
        """Whether this process alone has ever had the chunks, and none comes back.

        Those up to `number` are deleted, and a loss of power does not bring them back.
        """
        if self._is_adopted or self.closed:
            return False
        try:
            self._db.execute("DELETE FROM chunk WHERE number <= ?", (number,))
            self.sync()
        except (OSError, sqlite3.Error):
            return False
        return True

    def shrink(self) -> None:
        """Give the disk back what is no longer used, if that is worth it: by a smaller copy."""
        if not self.closed and self._free() * self.PAGE_SIZE > max(
            zmqpush.WORTH_TRIMMING, self.size
        ):
            self.move()

    def _free(self) -> int:
        """How many pages have nothing in them."""
        (count,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return int(count)

    def is_in_place(self) -> bool:
        """Whether the file at the path is still this one."""
        return is_file_at(self.path, self._lock)

    def move(self) -> None:
        """Go on in a new file of the same directory, with all that this one has."""
        place = os.path.basename(self.path).partition(".")[0]
        path, lock = self._new(os.path.dirname(self.path), place)
        try:
            # As bytes: Python would refuse a path that is not UTF-8.
            self._db.execute("VACUUM INTO CAST(? AS TEXT)", (os.fsencode(path),))
            os.fsync(lock)
            moved = SpoolFile(path, lock)
            sync_directory(os.path.dirname(path))
        except (OSError, sqlite3.Error):
            remove_database(path)
            os.close(lock)
            raise
        if self.is_in_place():
            remove_database(self.path)
        self.let_go()
        vars(self).update(path=path, _lock=lock, _db=moved._db, _log=moved._log, closed=False)

    def close(self) -> None:
        """Close it, and remove it if it is empty."""
        empty = not self._db.execute("SELECT 1 FROM chunk LIMIT 1").fetchall()
        self._db.close()  # this removes the log: alone, nobody would
        if empty and self.is_in_place():
            remove_database(self.path)
        self.let_go()

    def remove(self) -> None:
        """Remove it, whatever is in it."""
        if self.is_in_place():
            remove_database(self.path)
        self.let_go()

    def let_go(self) -> None:
        """Close it as it is."""
        self.closed = True
        forget_state(self.path)
        self._db.close()
        os.close(self._log)
        os.close(self._lock)  # the last one, for with any descriptor of a file go SQLite's locks

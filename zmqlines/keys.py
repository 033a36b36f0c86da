"""Keys of CURVE (RFC 26) and the files that they are kept in, those of czmq's zcert.

Such a file is in ZPL (RFC 4): a section `curve` with a `public-key` and, in one that nobody else
may read, a `secret-key`, both in Z85 (RFC 32), 40 characters for 32 bytes. czmq, rsyslog and pyzmq
read it, too.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import time

import zmq
from zmq.utils import z85

import zmqpush

KEY_SIZE = 32  # bytes
TEXT_SIZE = 40  # the same in Z85
LARGEST_FILE = 64 * 1024  # bytes of one with a key
PUBLIC, SECRET = ".key", ".key_secret"
PRIVATE = stat.S_IRWXG | stat.S_IRWXO  # what the mode of a file with a secret key must lack


class Pair:
    """A public key and its secret one, in Z85; the latter is b"" where it is not known."""

    def __init__(self, public: bytes, secret: bytes = b"") -> None:
        """Raises ValueError where one is no key, or they are not of one pair."""
        decode(public)
        if secret:
            decode(secret)
            if zmq.curve_public(secret) != public:
                raise ValueError("its public key is not that of its secret key")
        self.public = public
        self.secret = secret


def decode(key: bytes) -> bytes:
    """The 32 bytes that `key` is in Z85. Raises ValueError."""
    if len(key) == TEXT_SIZE:
        with contextlib.suppress(KeyError, struct.error):
            return bytes(z85.decode(key))
    raise ValueError("no key in it: that is 40 characters of Z85")


def encode(key: bytes) -> bytes:
    """`key` in Z85."""
    return bytes(z85.encode(key))


# ---- reading ----------------------------------------------------------------------------------


def read_own(path: str) -> Pair:
    """The pair in a file that nobody else can read. Raises OSError and ValueError."""
    pair = read_pair(path, is_ours=True)
    if not pair.secret:
        raise ValueError(f"no secret key in it: that is in {SECRET} of --curve-keygen")
    return pair


def read_public(word: str) -> bytes:
    """The public key that `word` is, or that is in the file of that name.

    Raises OSError and ValueError.
    """
    key = os.fsencode(word)
    with contextlib.suppress(ValueError):
        if not os.path.exists(word):
            decode(key)
            return key
    return read_pair(word).public


def read_folder(path: str) -> tuple[frozenset[bytes], list[str]]:
    """The public keys (32 bytes each) of the files in a folder, and why files have none.

    Raises OSError where the folder cannot be read.
    """
    found, faults = set(), []
    for name in sorted(os.listdir(path)):
        if name.startswith("."):
            continue
        try:
            pair = read_pair(os.path.join(path, name))
            if pair.secret:
                raise ValueError("it has a secret key, which belongs to who speaks")
            found.add(decode(pair.public))
        except OSError as error:
            faults.append(f"{name}: {error.strerror}")
        except ValueError as error:
            faults.append(f"{name}: {error}")
    return frozenset(found), faults


def read_pair(path: str, is_ours: bool = False) -> Pair:
    """The keys in a file; one with `is_ours` must be hidden from others. OSError, ValueError."""
    # A FIFO, of which nobody knows when it ends, is not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        text = file.read(LARGEST_FILE)
    pair = pair_in(text)
    if is_ours and pair.secret and status.st_mode & PRIVATE:
        raise ValueError(f"others can read the secret key: chmod 600 {path}")
    return pair


def pair_in(text: bytes) -> Pair:
    """The keys in the text of a certificate; a public key alone will do, too. ValueError."""
    if len(text.strip()) == TEXT_SIZE:
        return Pair(text.strip())
    section, keys = b"", {}
    for line in text.splitlines():
        name, equals, value = line.partition(b"=")
        if line.startswith(b"#") or not line.strip():
            continue
        if not line[:1].isspace():
            section = line.strip()
        elif section == b"curve" and equals:
            keys[name.strip()] = value.strip().strip(b"\"'")
    return Pair(keys.get(b"public-key", b""), keys.get(b"secret-key", b""))


# ---- making -----------------------------------------------------------------------------------


def keygen(name: str) -> int:
    """Make a pair, in the files NAME.key and NAME.key_secret; returns the exit status.

    What is there stays. The public key is printed.
    """
    public, secret = zmq.curve_keypair()
    begun: list[str] = []
    try:
        make_file(name + SECRET, certificate(public, secret), 0o600, begun)
        make_file(name + PUBLIC, certificate(public), 0o644, begun)
    except OSError as error:
        for path in begun:
            os.unlink(path)
        zmqpush.fail(f"--curve-keygen: {error.filename}: {error.strerror}")
    try:
        zmqpush.offer(public + b"\n", 1)
    except OSError as error:
        zmqpush.say(f"cannot write to standard output: {error.strerror}")
        return 1
    return 0


def certificate(public: bytes, secret: bytes = b"") -> bytes:
    """The text of a file with these keys."""
    kind = b"the secret key of a pair: it is for one program only" if secret else b"a public key"
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()).encode()
    text = b'# %b; made on %b\n\nmetadata\ncurve\n    public-key = "%b"\n' % (kind, at, public)
    return text + b'    secret-key = "%b"\n' % secret if secret else text


def make_file(path: str, text: bytes, mode: int, begun: list[str]) -> None:
    """Write a file that is not there yet, and note that it is. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    begun.append(path)
    try:
        with open(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        error.filename = path
        raise

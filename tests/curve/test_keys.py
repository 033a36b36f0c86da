"""Keys, the files that they are in, and what makes them."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth
from hypothesis import given
from hypothesis import strategies as st

from tests.support.aliases import Ship
from tests.support.keyring import Keyring
from tests.support.programs import TOP, Result
from tests.support.running import run_program
from zmqlines import keys
from zmqlines.keys import Pair, certificate, decode, pair_in, read_folder

PROGRAMS = ["zmqpush.py", "zmqpull.py"]
PUBLIC = b"JQ!6+=BqP6t)dBE<J@*%UBhk?Re&LWCA8.x-7d4S"
SECRET = b"+$ZX@CTTYE<+3L%?/3kiE+Hort){hfsv1=?9M:u7"
OTHER = b"gq[aT{[PYTRy1a$^Fx=74{nL9Dqgn#mtau.*XLv}"
GARBAGE = {
    "nothing": b"",
    "a blank line": b"\n",
    "too short": PUBLIC[:-1],
    "too long": PUBLIC + b"0",
    "another letter": PUBLIC[:-1] + b"~",
    "more than 32 bits": b"#" * 40,
    "too short in a certificate": b"curve\n    public-key = %b\n" % PUBLIC[:-1],
    "another section": b'metadata\n    public-key = "%b"\n' % PUBLIC,
    "no public key": b'curve\n    secret-key = "%b"\n' % SECRET,
    "two pairs": certificate(OTHER, SECRET),
    "bytes": bytes(range(256)) * 300,
}


# ---- --curve-keygen ---------------------------------------------------------------------------


def run(program: str, name: str, folder: Path, **popen: Any) -> Result:
    command = [sys.executable, str(TOP / program), "--curve-keygen", name]
    return run_program(command, cwd=folder, **popen)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_pair_is_made_and_the_public_key_printed(program: str, tmp_path: Path) -> None:
    result = run(program, "a b", tmp_path, umask=0)
    assert (result.status, result.stderr) == (0, "")
    public, secret = tmp_path / "a b.key", tmp_path / "a b.key_secret"
    printed = result.stdout.strip().encode()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert zmq.auth.load_certificate(public) == (printed, None)
    loaded, loaded_secret = zmq.auth.load_certificate(secret)
    assert loaded_secret
    assert (loaded, zmq.curve_public(loaded_secret)) == (printed, printed)
    assert loaded_secret not in public.read_bytes()
    assert loaded_secret.decode() not in result.stdout


@pytest.mark.parametrize("there", ["k.key", "k.key_secret"])
def test_what_is_there_is_not_overwritten(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("dear")
    result = run("zmqpush.py", "k", tmp_path)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == f"zmqpush.py: --curve-keygen: {there}: File exists\n"
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "dear"


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    result = run("zmqpush.py", "no/k", tmp_path)
    said = "zmqpush.py: --curve-keygen: no/k.key_secret: No such file or directory\n"
    assert (result.status, result.stderr) == (2, said)


def test_a_key_that_cannot_be_printed_is_said(ship: Ship, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        shipper = ship("--curve-keygen", "k", cwd=tmp_path, stdout=full)
    result = shipper.finish()
    said = "zmqpush.py: cannot write to standard output: No space left on device\n"
    assert (result.status, result.stderr) == (1, said)
    assert (tmp_path / "k.key_secret").exists()


# ---- reading ----------------------------------------------------------------------------------


def test_a_certificate_of_others_is_read(tmp_path: Path) -> None:
    public, secret = zmq.auth.create_certificates(tmp_path, "theirs")
    assert pair_in(Path(public).read_bytes()).public == zmq.auth.load_certificate(public)[0]
    assert pair_in(Path(secret).read_bytes()).secret == zmq.auth.load_certificate(secret)[1]


@pytest.mark.parametrize(
    "text", [PUBLIC, PUBLIC + b"\n", b"  %b \r\n" % PUBLIC], ids=["", "line", "blanks"]
)
def test_a_public_key_alone_will_do(text: bytes) -> None:
    assert pair_in(text).public == PUBLIC


@pytest.mark.parametrize("quote", [b'"', b"'", b""])
def test_a_key_may_be_quoted_or_not(quote: bytes) -> None:
    text = b"curve\r\n\tpublic-key=%b%b%b\r\n" % (quote, PUBLIC, quote)
    assert pair_in(text).public == PUBLIC


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_key_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        pair_in(text)


@given(st.binary() | st.binary().map(lambda data: b"curve\n public-key = " + data))
def test_whatever_is_in_a_file_is_a_key_or_none(text: bytes) -> None:
    try:
        pair = pair_in(text)
    except ValueError:
        return
    assert len(decode(pair.public)) == keys.KEY_SIZE


@given(st.binary(min_size=32, max_size=32))
def test_a_key_in_z85_is_what_it_was(key: bytes) -> None:
    assert decode(keys.encode(key)) == key


def test_keys_must_be_of_one_pair() -> None:
    with pytest.raises(ValueError, match="not that of its secret key"):
        Pair(OTHER, SECRET)


# ---- a folder ---------------------------------------------------------------------------------


def test_what_is_no_key_in_a_folder_is_named_and_the_others_are_read(keyring: Keyring) -> None:
    folder = keyring.clients
    (folder / ".hidden").write_text("x")
    (folder / "alone").write_bytes(PUBLIC)
    (folder / "garbage").write_bytes(b"\0" * 100)
    (folder / "gone").symlink_to("nowhere")
    (folder / "large").write_bytes(b"x" * 10_000_000)
    (folder / "secret").write_bytes(certificate(PUBLIC, SECRET))
    (folder / "sub").mkdir()
    os.mkfifo(folder / "fifo")
    found, faults = read_folder(str(folder))
    others = [pair_in(keyring.public(name).read_bytes()).public for name in ("shipper", "another")]
    assert found == {decode(PUBLIC), *map(decode, others)}
    assert [fault.partition(":")[0] for fault in faults] == [
        *("fifo", "garbage", "gone", "large", "secret", "sub"),
    ]

"""What does not fit together, or cannot be read, is one line and status 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.aliases import Ship
from tests.support.keyring import Keyring
from tests.support.pulling import Pull

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

A, B = "tcp://127.0.0.1:2120", "tcp://127.0.0.1:2121"
KEY = "JQ!6+=BqP6t)dBE<J@*%UBhk?Re&LWCA8.x-7d4S"
NEEDS_KEY = "CURVE needs --curve-key FILE; --curve-keygen NAME makes one"
MISFITS = [
    (["-c", A, "--curve-server-key", KEY], NEEDS_KEY),
    (["-b", A, "--curve-clients", "any"], NEEDS_KEY),
    (["-c", A, "--curve-key", "f"], "CURVE with --connect needs --curve-server-key KEY"),
    (["-b", A, "--curve-key", "f"], "CURVE with --bind needs --curve-clients DIR, or any"),
    (
        ["-b", A, "-c", B, "--curve-key", "f", "--curve-clients", "any"],
        "CURVE with --connect needs --curve-server-key KEY",
    ),
    (
        ["-b", A, "--curve-key", "f", "--curve-clients", "any", "--curve-server-key", KEY],
        "--curve-server-key is for --connect",
    ),
    (
        ["-c", A, "--curve-key", "f", "--curve-server-key", KEY, "--curve-clients", "any"],
        "--curve-clients is for --bind",
    ),
    (
        ["-c", A, "--curve-key", "f", *["--curve-server-key", KEY] * 2],
        "--curve-server-key is given 2 times for 1 of --connect: "
        "one for all of them, or one for each",
    ),
]


@pytest.mark.parametrize("program", ["zmqpush.py", "zmqpull.py"])
@pytest.mark.parametrize(("options", "said"), MISFITS)
def test_what_does_not_fit_together_is_said(
    program: str, options: list[str], said: str, ship: Ship
) -> None:
    result = ship(*options, program=program).finish()
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == f"{program}: {said} (--help tells more)\n"


def check_refused(ship: Ship, options: list[str], said: str) -> None:
    result = ship(*options).finish()
    assert (result.status, result.stderr) == (2, f"zmqpush.py: {said}\n")


def test_a_secret_that_others_can_read_is_refused(ship: Ship, keyring: Keyring) -> None:
    path = keyring.secret("shipper")
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        said = f"--curve-key {path}: others can read the secret key: chmod 600 {path}"
        check_refused(ship, keyring.to_connect(), said)


def test_our_own_key_must_be_the_secret_one(ship: Ship, keyring: Keyring) -> None:
    path = keyring.public("shipper")
    options = ["--curve-key", str(path), "--curve-server-key", KEY]
    said = f"--curve-key {path}: no secret key in it: that is in .key_secret of --curve-keygen"
    check_refused(ship, options, said)


def test_a_key_file_that_cannot_be_used_is_said(
    ship: Ship, keyring: Keyring, tmp_path: Path
) -> None:
    garbage, fifo, nowhere = tmp_path / "garbage", tmp_path / "fifo", tmp_path / "nowhere"
    garbage.write_bytes(os.urandom(1000))
    os.mkfifo(fifo)
    no_key = "no key in it: that is 40 characters of Z85"
    for path, why in (
        (garbage, no_key),
        (fifo, "it is not a regular file"),
        (tmp_path, "Is a directory"),
        (nowhere, "No such file or directory"),
    ):
        own = ["--curve-key", str(path), "--curve-server-key", KEY]
        check_refused(ship, own, f"--curve-key {path}: {why}")
        others = [*keyring.to_connect()[:2], "--curve-server-key", str(path)]
        check_refused(ship, others, f"--curve-server-key {path}: {why}")


def test_a_folder_of_clients_that_is_none_is_said(pull: Pull, keyring: Keyring) -> None:
    for path, why in (
        (keyring.folder / "nowhere", "No such file or directory"),
        (keyring.public("shipper"), "Not a directory"),
    ):
        puller = pull("-b", A, *keyring.to_bind()[:2], "--curve-clients", str(path))
        assert puller.process.wait(30) == 2
        assert puller.said() == [f"--curve-clients {path}: {why}"]


def test_without_the_folder_of_parts_that_is_said(ship: Ship, tmp_path: Path) -> None:
    """No key is quietly left unused."""
    copy = tmp_path / "zmqpush.py"
    copy.write_bytes((Path(__file__).parents[2] / "zmqpush.py").read_bytes())
    result = ship("--curve-key", "f", program=str(copy)).finish()
    assert result.status == 2
    assert "--curve-key: the folder zmqlines is needed" in result.stderr

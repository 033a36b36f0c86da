"""Who is refused gets nothing in; each end says so once; and all goes on when the key is right."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.keyring import Keyring
from tests.support.proc import cpu_s_in
from tests.support.programs import Shipper
from tests.support.pulling import Pull, Puller
from tests.support.waiting import wait_until

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

ACK = pytest.mark.parametrize("ack", [[], ["--ack"]], ids=["plain", "ack"])
REFUSED = "refused a peer whose key is not in"
CUT = "has cut us off in the handshake: wrong --curve-server-key, or no CURVE there?"


class Told:
    """What a shipper says on its standard error, which is a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wait_for(self, word: str) -> str:
        lines = wait_until(
            lambda: [line for line in self.path.read_text().splitlines() if word in line], word
        )
        assert len(lines) == 1, lines
        return str(lines[0])

    def count(self, word: str) -> int:
        return self.path.read_text().count(word)


Start = Callable[..., tuple[Shipper, Told]]


def at(endpoint: str, pull: Pull, *options: str) -> Puller:
    """A collector that is ready there."""
    puller = pull("-b", endpoint, *options)
    assert puller.wait_until_bound() == endpoint
    return puller


@pytest.fixture
def begin(ship: Ship, tmp_path: Path) -> Start:
    """Starts a shipper that has three lines to send."""
    serials = itertools.count()

    def start(*arguments: str) -> tuple[Shipper, Told]:
        path = tmp_path / f"told-{next(serials)}"
        with open(path, "wb") as stderr:
            shipper = ship(*arguments, stderr=stderr)
        shipper.write(b"1\n2\n3\n")
        return shipper, Told(path)

    return start


def check_arrives(puller: Puller, *numbers: int) -> None:
    lines = puller.read(len(numbers))
    assert [strict_json(line)["message"] for line in lines] == [str(n) for n in numbers]


def check_nothing_came(puller: Puller) -> None:
    assert puller.counters()[0] == 0


# ---- why --------------------------------------------------------------------------------------


@ACK
def test_a_key_that_is_not_on_the_list(
    ack: list[str], pull: Pull, begin: Start, keyring: Keyring
) -> None:
    puller = pull(*ack, *keyring.to_bind())
    shipper, told = begin(*ack, *keyring.to_connect("stranger"), "-c", puller.endpoint)
    key = keyring.public("stranger").read_text().split('"')[1]
    assert puller.wait_for_word(REFUSED) == f"{REFUSED} {keyring.clients}: {key}"
    assert key in told.wait_for("has refused our key")
    check_nothing_came(puller)
    (keyring.clients / "copied").write_text(key)  # as the line has it
    puller.signal(signal.SIGHUP)
    check_arrives(puller, 1, 2, 3)
    shipper.write(b"4\n")
    check_arrives(puller, 4)
    assert shipper.finish().status == 0
    assert told.count("refused") == 1


@ACK
def test_a_wrong_server_key(ack: list[str], pull: Pull, begin: Start, keyring: Keyring) -> None:
    puller = pull(*ack, *keyring.to_bind())
    options = keyring.to_connect(server="stranger")
    _, told = begin(*ack, *options, "-c", puller.endpoint)
    told.wait_for(CUT)
    assert "is not ours" in puller.wait_for_word("a peer has gone without a handshake")
    check_nothing_came(puller)


@ACK
def test_plain_to_curve(ack: list[str], pull: Pull, begin: Start, keyring: Keyring) -> None:
    puller = pull(*ack, *keyring.to_bind())
    shipper, told = begin(*ack, "-c", puller.endpoint)
    told.wait_for("is no plain collector: another socket, or one with CURVE?")
    said = puller.wait_for_word("without a handshake")
    assert "it does not use CURVE, or is nothing that fits" in said
    shipper.signal(signal.SIGTERM)
    assert shipper.finish().status == 1
    check_nothing_came(puller)
    assert len([line for line in puller.said() if "handshake" in line]) == 1


@ACK
def test_curve_to_plain(ack: list[str], pull: Pull, begin: Start, keyring: Keyring) -> None:
    """libzmq does not always see why it was cut off."""
    puller = pull(*ack)
    _, told = begin(*ack, *keyring.to_connect(), "-c", puller.endpoint)
    wait_until(lambda: told.count(CUT) or told.count("does not use CURVE"), "it is told")
    assert "CURVE" in puller.wait_for_word("a peer has gone without a handshake")
    check_nothing_came(puller)


def test_a_server_that_binds_tells_the_collector(
    pull: Pull, begin: Start, keyring: Keyring, endpoint: str
) -> None:
    """And it is let in when its key is there."""
    _, told = begin("-b", endpoint, *keyring.to_bind("shipper"))
    puller = pull("-c", endpoint, *keyring.to_connect("collector", "shipper"))
    puller.wait_for_word("has refused our key")
    told.wait_for(REFUSED)


# ---- and then ---------------------------------------------------------------------------------


def test_with_ack_nothing_is_lost_by_who_is_off_the_list_for_a_while(
    pull: Pull, begin: Start, keyring: Keyring, endpoint: str, tmp_path: Path
) -> None:
    """A connection that stands is not cut by that; the next one is."""
    output = ["-o", str(tmp_path / "out")]
    options = ["--ack", *output, *keyring.to_bind()]
    puller = at(endpoint, pull, *options)
    shipper, told = begin("--ack", *keyring.to_connect(), "-c", endpoint)
    wait_until(lambda: puller.counters()[0] == 3, "three are there")
    keyring.turn_away("shipper")
    puller.signal(signal.SIGHUP)
    shipper.write(b"4\n")
    wait_until(lambda: puller.counters()[0] == 4, "it is still let in")
    puller.end(signal.SIGTERM)
    shipper.write(b"5\n")
    puller = at(endpoint, pull, *options)
    told.wait_for("has refused our key")
    shipper.write(b"6\n")
    check_nothing_came(puller)
    keyring.let_in("shipper")
    puller.signal(signal.SIGHUP)
    assert shipper.finish(b"7\n", deadline_s=40).status == 0
    lines = (tmp_path / "out").read_bytes().splitlines()
    assert [strict_json(line)["message"] for line in lines] == [str(n) for n in range(1, 8)]


def test_plain_what_libzmq_was_not_given_arrives_when_the_key_is_back(
    pull: Pull, begin: Start, keyring: Keyring, endpoint: str
) -> None:
    puller = at(endpoint, pull, *keyring.to_bind())
    shipper, told = begin(*keyring.to_connect(), "-c", endpoint)
    check_arrives(puller, 1, 2, 3)
    puller.end(signal.SIGTERM)
    keyring.turn_away("shipper")
    puller = at(endpoint, pull, *keyring.to_bind())
    told.wait_for("has refused our key")
    shipper.write(b"4\n5\n")
    check_nothing_came(puller)
    keyring.let_in("shipper")
    puller.signal(signal.SIGHUP)
    check_arrives(puller, 4, 5)
    assert shipper.finish().status == 0


def test_a_server_key_that_is_right_again_is_found(
    pull: Pull, begin: Start, keyring: Keyring, endpoint: str
) -> None:
    """Somebody else was at the endpoint for a while: he gets nothing."""
    other = at(endpoint, pull, *keyring.to_bind("stranger"))
    _, told = begin(*keyring.to_connect(), "-c", endpoint)
    told.wait_for(CUT)
    check_nothing_came(other)
    other.end(signal.SIGTERM)
    check_arrives(at(endpoint, pull, *keyring.to_bind()), 1, 2, 3)


def test_what_is_no_key_in_the_folder_is_named_and_hinders_nobody(
    pull: Pull, begin: Start, keyring: Keyring
) -> None:
    puller = pull(*keyring.to_bind())
    (keyring.clients / "garbage").write_bytes(b"\xff" * 1000)
    puller.signal(signal.SIGHUP)
    assert "left out garbage: no key in it" in puller.wait_for_word("left out")
    begin(*keyring.to_connect(), "-c", puller.endpoint)
    check_arrives(puller, 1, 2, 3)


def test_where_the_folder_cannot_be_read_any_more_the_last_list_stays(
    pull: Pull, begin: Start, keyring: Keyring
) -> None:
    puller = pull(*keyring.to_bind())
    shutil.rmtree(keyring.clients)
    puller.signal(signal.SIGHUP)
    puller.wait_for_word("the last list stays")
    begin(*keyring.to_connect(), "-c", puller.endpoint)
    check_arrives(puller, 1, 2, 3)


def test_an_empty_folder_lets_nobody_in_and_says_so(
    pull: Pull, begin: Start, keyring: Keyring
) -> None:
    puller = pull(*keyring.to_bind())
    keyring.turn_away("shipper")
    keyring.turn_away("another")
    puller.signal(signal.SIGHUP)
    puller.wait_for_word("no keys in it: nobody can connect")
    _, told = begin(*keyring.to_connect(), "-c", puller.endpoint)
    told.wait_for("has refused our key")
    check_nothing_came(puller)


# ---- what it costs ----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("who", ["stranger", "stranger with ack", "wrong key", "plain"])
def test_who_is_refused_costs_the_collector_next_to_nothing(
    who: str, pull: Pull, begin: Start, keyring: Keyring
) -> None:
    options = {
        "stranger": keyring.to_connect("stranger"),
        "stranger with ack": ["--ack", *keyring.to_connect("stranger")],
        "wrong key": keyring.to_connect(server="stranger"),
        "plain": [],
    }[who]
    puller = pull(*["--ack"] * who.endswith("ack"), *keyring.to_bind())
    begin(*options, "-c", puller.endpoint)
    wait_until(lambda: len(puller.said()), "it is told")
    assert cpu_s_in(puller.pid, 10) < 0.01  # 0.1%

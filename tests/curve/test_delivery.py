"""Everything works with keys as it does without: whoever binds, and however it is sent."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.keyring import Keyring
from tests.support.net import free_endpoint
from tests.support.pulling import ANY_PORT, Pull, Puller
from tests.support.waiting import wait_until

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

LINES = [f"line {number}" for number in range(1000)]
TEXT = "".join(f"{line}\n" for line in LINES).encode()


def messages(puller: Puller) -> list[str]:
    return [strict_json(line)["message"] for line in puller.read(len(LINES))]


@pytest.mark.parametrize("options", [[], ["--batch", "100"], ["--ack"], ["--format", "json"]])
@pytest.mark.parametrize("spool", [False, True], ids=["", "spool"])
def test_what_connects_delivers_all_in_order(
    options: list[str], spool: bool, pull: Pull, ship: Ship, keyring: Keyring, tmp_path: Path
) -> None:
    puller = pull(*keyring.to_bind(), *["--ack"] * ("--ack" in options))
    spooled = ["--spool", str(tmp_path / "spool")] * spool
    shipper = ship(*keyring.to_connect(), *options, *spooled, "-c", puller.endpoint)
    result = shipper.finish(TEXT)
    assert (result.status, result.stderr) == (0, "")
    assert messages(puller) == LINES
    puller.end(signal.SIGTERM)


@pytest.mark.parametrize("spool", [False, True], ids=["", "spool"])
def test_a_shipper_that_binds_is_the_server(
    spool: bool, pull: Pull, ship: Ship, keyring: Keyring, tmp_path: Path
) -> None:
    keyring.let_in("collector")
    endpoint = free_endpoint()
    spooled = ["--spool", str(tmp_path / "spool")] * spool
    shipper = ship(*keyring.to_bind("shipper"), *spooled, "-b", endpoint)
    stranger = pull("-c", endpoint, *keyring.to_connect("stranger", "shipper"))
    stranger.wait_for_word("has refused our key")
    puller = pull("-c", endpoint, *keyring.to_connect("collector", "shipper"))
    result = shipper.finish(TEXT)
    assert result.status == 0
    assert f"refused a peer whose key is not in {keyring.clients}" in result.stderr
    assert messages(puller) == LINES


def test_several_servers_have_a_key_each(pull: Pull, ship: Ship, keyring: Keyring) -> None:
    keyring.make("second")
    pullers = [pull(*keyring.to_bind(name)) for name in ("collector", "second")]
    endpoints = [word for puller in pullers for word in ("-c", puller.endpoint)]
    second = ["--curve-server-key", str(keyring.public("second"))]
    result = ship(*endpoints, *keyring.to_connect(), *second).finish(TEXT)
    assert (result.status, result.stderr) == (0, "")

    def written() -> list[int]:
        return [each.counters()[0] for each in pullers]

    with contextlib.suppress(AssertionError):
        wait_until(lambda: sum(written()) == len(LINES), "all are there")
    assert sum(written()) == len(LINES), (written(), [each.said() for each in pullers])


def test_one_socket_may_bind_and_connect(pull: Pull, ship: Ship, keyring: Keyring) -> None:
    endpoint = free_endpoint()
    keyring.let_in("collector")
    puller = pull(
        *("-b", ANY_PORT, *keyring.to_bind(), "-c", endpoint),
        *("--curve-server-key", str(keyring.public("shipper"))),
    )
    by_us = ship(*keyring.to_bind("shipper"), "-b", endpoint)
    by_it = ship(*keyring.to_connect(), "-c", puller.endpoint)
    assert by_us.finish(b"a\n").status == by_it.finish(b"b\n").status == 0
    assert {strict_json(line)["message"] for line in puller.read(2)} == {"a", "b"}


def test_a_name_and_a_socket_in_the_file_system_will_do(
    pull: Pull, ship: Ship, keyring: Keyring, tmp_path: Path
) -> None:
    ipc = f"ipc://{tmp_path}/socket"
    puller = pull("-b", "tcp://127.0.0.1:*", "-b", ipc, *keyring.to_bind())
    port = puller.endpoint.rpartition(":")[2]
    for endpoint in (f"tcp://localhost:{port}", ipc):
        shipper = ship(*keyring.to_connect(), "-c", endpoint)
        assert shipper.finish(b"x\n").status == 0
        assert strict_json(puller.read(1)[0])["message"] == "x"


def test_any_is_whoever_knows_our_key(pull: Pull, ship: Ship, keyring: Keyring) -> None:
    puller = pull(*keyring.to_bind()[:2], "--curve-clients", "any")
    shipper = ship(*keyring.to_connect("stranger"), "-c", puller.endpoint)
    assert shipper.finish(TEXT).status == 0
    assert messages(puller) == LINES


def test_keys_may_be_in_variables(pull: Pull, ship: Ship, keyring: Keyring) -> None:
    puller = pull(*keyring.to_bind())
    own, server = keyring.secret("shipper"), keyring.public("collector").read_text().split('"')[1]
    variables = {"ZMQPUSH_CURVE_KEY": str(own), "ZMQPUSH_CURVE_SERVER_KEY": f"'{server}'"}
    shipper = ship("-c", puller.endpoint, env=variables)
    assert shipper.finish(TEXT).status == 0
    assert messages(puller) == LINES

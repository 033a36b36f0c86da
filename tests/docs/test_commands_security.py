"""The commands of docs/security.md do what is shown, and what it says of strangers holds."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import threading
from pathlib import Path

import pytest

from tests.docs.pages import block
from tests.docs.sandbox import RSYSLOGD, Sandbox, runs, waits_for
from tests.support.aliases import Ship
from tests.support.collector import strict_json
from tests.support.endpoints import address_of
from tests.support.pulling import Pull
from tests.support.waiting import DEADLINE_S

PAGE = "docs/security.md"
PRIVATE = block(PAGE, "Stay on this machine")
PASSWORD = block(PAGE, "Passwords")
KEYS = [block(PAGE, "Keys (CURVE)", number) for number in range(3)]
OMCZMQ, IMCZMQ = (block(PAGE, "Keys (CURVE)", n, language="rsyslog") for n in range(2))
#: Shell: a /etc of our own, with the name of the example.
ETC = """
private /etc 3
mkdir -m 755 /etc/zmqpush
echo 127.0.0.1 localhost logs.example.org >hosts
mount --bind hosts /etc/hosts
"""


@pytest.mark.long
@runs(PRIVATE)
def test_an_endpoint_in_a_private_directory_works_and_is_private(tmp_path: Path) -> None:
    make, ship = PRIVATE.commands
    output = Sandbox(tmp_path).run(f"{make}\n{ship}\nstat -c %a private\n", peer="")
    assert re.fullmatch(PRIVATE.output + "700\n", output)


@pytest.mark.long
@runs(*KEYS)
def test_the_keys_are_made_and_used_as_shown(tmp_path: Path) -> None:
    script = "\n".join(command for shown in KEYS for command in shown.commands)
    collector, shipper, *event = Sandbox(tmp_path).run(script, peer="").splitlines()
    assert len(collector) == len(shipper) == 40
    assert strict_json(event[0].encode())["message"] == "hello"


def make_keys() -> str:
    """Shell: the pairs of the page, where rsyslog is to find them."""
    return f"""{ETC}
cd /etc/zmqpush
{{
{chr(10).join(command for shown in KEYS[:2] for command in shown.commands)}
}} >keys
cd "$OLDPWD"
"""


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("rsyslogd"), reason="rsyslogd is not installed")
@runs(OMCZMQ)
def test_rsyslog_sends_with_a_key(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    source = f'''module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{tmp_path}/socket")
'''
    sandbox.write("rsyslog.conf", OMCZMQ, before=source)
    script = f"""
zmqpull.py -q --curve-key /etc/zmqpush/collector.key_secret \\
    --curve-clients /etc/zmqpush/clients -o arrived & collector=$!
disown
trap 'kill -9 $rsyslogd $collector' EXIT
until [ -S socket ]; do sleep 0.01; done; logger -u "$PWD/socket" -t app hello
{waits_for(1)}"""
    sandbox.run(script, make_keys() + "touch arrived" + RSYSLOGD)
    assert strict_json(sandbox.arrived()[0])["message"] == " hello"


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("rsyslogd"), reason="rsyslogd is not installed")
@runs(IMCZMQ)
def test_rsyslog_receives_with_a_key(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.write("rsyslog.conf", IMCZMQ)
    script = """
echo test | zmqpush.py -q --curve-key /etc/zmqpush/web1.key_secret \\
    --curve-server-key /etc/zmqpush/collector.key
until grep . /var/log/collected.json 2>&-; do sleep 0.01; done"""
    event = strict_json(sandbox.run(script, make_keys() + RSYSLOGD).encode())
    assert event["message"] == "test"


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
@runs(PASSWORD)
def test_a_password_in_a_variable_is_not_in_ps_and_is_not_told(tmp_path: Path) -> None:
    variable, collect = PASSWORD.commands
    script = f"""
redis-server --save '' --requirepass secret >redis & redis=$!
disown
{variable}
{collect} 2>said & collector=$!
trap 'kill $redis $collector' EXIT
echo one | zmqpush.py -q
redis-cli -a secret --no-auth-warning --raw BLPOP logstash 10
tr '\\0' ' ' </proc/$collector/cmdline
kill $collector
wait $collector
trap 'kill $redis' EXIT
cat said
"""
    key, event, *rest = Sandbox(tmp_path).run(script, peer="").splitlines()
    assert (key, strict_json(event.encode())["message"]) == ("logstash", "one")
    assert "zmqpull.py" in rest[0]
    assert "secret" not in "".join(rest)


class Tunnel:
    """Carries one connection after the other to an address, as that of SSH does."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "tcp://{}:{}".format(*self._listener.getsockname())
        self._ends: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._address, timeout=DEADLINE_S)
            far.settimeout(None)
            self._ends += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=carry, args=(source, target), daemon=True).start()

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._thread.join()


def carry(source: socket.socket, target: socket.socket) -> None:
    """Until one of them ends."""
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.mark.parametrize("ack", [[], ["--ack"]], ids=["plain", "ack"])
def test_it_works_through_a_tunnel_of_tcp(ack: list[str], pull: Pull, ship: Ship) -> None:
    puller = pull(*ack, "-n", "1000")
    tunnel = Tunnel(address_of(puller.endpoint))
    try:
        data = b"".join(b"%d\n" % number for number in range(1000))
        assert ship(*ack, "-c", tunnel.endpoint).finish(data).processed == 1000
        lines = puller.read(1000)
        assert [strict_json(line)["message"] for line in lines] == [str(n) for n in range(1000)]
    finally:
        tunnel.close()

"""The commands and files of docs/collector.md do what is shown."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.pages import block
from tests.docs.sandbox import Sandbox, runs
from tests.support.collector import strict_json

pytestmark = pytest.mark.long

PAGE = "docs/collector.md"
FILE = block(PAGE, "Files and logrotate")
LOGROTATE = block(PAGE, "Files and logrotate", language="conf")
REDIS = block(PAGE, "Redis")
SQLITE = block(PAGE, "SQLite")
DELETE, VACUUM = (block(PAGE, "SQLite", number) for number in (1, 2))


@pytest.mark.skipif(not shutil.which("logrotate"), reason="logrotate is not installed")
@runs(FILE, LOGROTATE)
def test_logrotate_rotates_the_collectors_file(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.write("logrotate.conf", LOGROTATE)
    script = f"""
mount -t tmpfs -o mode=755 tmpfs /var/log
mount -t tmpfs tmpfs /run
echo '{{}}' >/var/log/events.json
sleep 1000 & bystander=$!
echo $bystander >/run/zmqpull.pid  # of somebody who was killed: another process has the number now
logrotate --force --state "$PWD/state" logrotate.conf
[ -e /var/log/events.json.1 ] && kill -0 $bystander && kill $bystander
rm /var/log/events.json.1
{FILE.commands[0]} 2>said & collector=$!
trap 'kill $collector' EXIT
tail -f /usr/local/bin/zmqpull.py >tailed & tail=$!
disown
echo one | zmqpush.py -q
until grep -qs one /var/log/events.json; do sleep 0.01; done
logrotate --force --state "$PWD/state" logrotate.conf
until [ -e /var/log/events.json ]; do sleep 0.01; done
echo two | zmqpush.py -q
until grep -qs two /var/log/events.json; do sleep 0.01; done
kill -0 $tail && kill $tail
cat /var/log/events.json.1 /var/log/events.json
"""
    output = sandbox.run(script, peer="")
    assert [strict_json(line.encode())["message"] for line in output.splitlines()] == ["one", "two"]


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
@runs(REDIS)
def test_workers_take_what_the_collector_pushed(tmp_path: Path) -> None:
    script = f"""
redis-server --save '' >redis & redis=$!
disown
{REDIS.commands[0]} 2>said & collector=$!
trap 'kill $redis $collector' EXIT
echo one | zmqpush.py -q
redis-cli --raw BLPOP logstash 10
"""
    key, event = Sandbox(tmp_path).run(script, peer="").splitlines()
    assert (key, strict_json(event.encode())["message"]) == ("logstash", "one")


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="sqlite3 is not installed")
@runs(SQLITE)
def test_the_table_can_be_asked_as_shown(tmp_path: Path) -> None:
    collect, ask = SQLITE.commands
    script = f"""
{collect} -n 6 2>said & collector=$!
seq 1 2 | zmqpush.py one -q
seq 1 4 | zmqpush.py two -q
wait $collector
{ask}
"""
    assert Sandbox(tmp_path).run(script, peer="") == "one|2\ntwo|4\n"


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="sqlite3 is not installed")
@runs(DELETE, VACUUM)
def test_what_is_old_can_be_deleted_while_it_runs(tmp_path: Path) -> None:
    """Its rows are made old first; what comes then is stored as before."""
    collect, ask = SQLITE.commands
    script = f"""
{collect} --ack 2>said & collector=$!
disown
trap 'kill $collector' EXIT
head -c 300000 /dev/zero | tr '\\0' x | fold | zmqpush.py one -q --ack
sqlite3 events.db "PRAGMA busy_timeout = 10000; UPDATE event SET received = '2020'" >out
{DELETE.commands[0]} >>out
before=$(sqlite3 events.db "PRAGMA page_count")
{VACUUM.commands[0]} >>out
seq 1 3 | zmqpush.py two -q --ack
[ $(sqlite3 events.db "PRAGMA page_count") -lt $before ] && {ask}
"""
    assert Sandbox(tmp_path).run(script, peer="") == "two|3\n"

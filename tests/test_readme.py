"""The README's commands do what it shows, word for word.

They run in a network and a mount namespace of their own: there its port 2120 is free, and its
/usr/local/bin is empty.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import zmqpull
import zmqpush
from tests.support.collector import strict_json
from tests.support.programs import TOP
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.long

README = (TOP / "README.md").read_text(encoding="utf-8")
UNSHARE = ["unshare", "--map-root-user", "--net", "--mount"]
PREAMBLE = f"""
ip link set lo up
mount -t tmpfs tmpfs /usr/local/bin
export PATH="{Path(sys.executable).parent}:/usr/local/bin:$PATH"
(cd "{TOP}" && %s)
"""
PRINTER = f"""
"{sys.executable}" "{TOP}/tests/support/pull_printer.py" >arrived 2>printer & printer=$!
disown
trap 'kill $printer' EXIT
until [ -s printer ]; do sleep 0.01; done
"""
# A rsyslogd with a configuration of the README, in a /var/log and a /run of its own.
RSYSLOGD = """
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/spool
mkdir /var/spool/rsyslog
rsyslogd -n -f "$PWD/rsyslog.conf" -i "$PWD/pid" & rsyslogd=$!
disown
trap 'kill -9 $rsyslogd $printer' EXIT
"""


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def blocks(text: str, language: str = "console") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    return re.findall(r"^[$#] (.*)$", block, re.MULTILINE)


def shown_output(block: str) -> str:
    """A pattern of what a block shows below its commands: any numbers will do."""
    lines = re.findall(r"^(?![$#] )(?:\^C)?(.*\n)", block, re.MULTILINE)
    return re.sub(r"\d+(?:\\\.\d+)?", r"[\\d.]+", "".join(map(re.escape, lines)))


@pytest.fixture
def sandbox(tmp_path: Path) -> list[str]:
    """The command that runs bash, in `tmp_path`, in namespaces with the programs installed."""
    if subprocess.run([*UNSHARE, "ip", "link"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces to be had here")
    install = commands(blocks(section("Install"))[0])[1]
    preamble = tmp_path / "preamble"
    preamble.write_text(PREAMBLE % install)
    return [*UNSHARE, "bash", "-c", f'. "{preamble}"; eval "$1"', "bash"]


def run(sandbox: list[str], tmp_path: Path, script: str, peer: str = PRINTER) -> str:
    """What a script prints; and in the file `arrived` what the collector got."""
    done = subprocess.run(
        [*sandbox, peer + script],
        cwd=tmp_path,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    # On a busy machine a collector may take its time.
    said = re.sub(r".*: the input has ended; .*\n", "", done.stderr)
    assert (done.returncode, said) == (0, ""), done
    return done.stdout


def arrived(tmp_path: Path) -> list[bytes]:
    return (tmp_path / "arrived").read_bytes().splitlines()


def waits_for(count: int) -> str:
    """Shell: wait until so many lines have arrived."""
    return f"\nuntil [ $(grep -c '' <arrived) -ge {count} ]; do sleep 0.01; done\n"


def test_the_pipe_examples_print_and_send_what_is_shown(sandbox: list[str], tmp_path: Path) -> None:
    block = blocks(section("A pipe"))[0]
    log = Path("/var/log/dpkg.log").read_bytes().splitlines()
    output = run(sandbox, tmp_path, "\n".join(commands(block)) + waits_for(401 + len(log)))
    assert re.fullmatch(shown_output(block), output), output
    event = blocks(section("A pipe"), "json")[0].strip()
    assert re.fullmatch(re.sub(r"\d+", r"\\d+", re.escape(event)), arrived(tmp_path)[0].decode())
    assert [strict_json(line)["type"] for line in arrived(tmp_path)[1:101]] == ["mytype"] * 100
    last = strict_json(arrived(tmp_path)[-1])
    assert (last["type"], last["host"]) == ("dpkg", os.uname().nodename)
    assert last["message"] == log[-1].decode()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", last["@timestamp"])


def test_ctrl_c_ends_the_stream_with_the_summary(sandbox: list[str], tmp_path: Path) -> None:
    block = blocks(section("A pipe"))[1]
    process = subprocess.Popen(
        [*sandbox, PRINTER + "trap : INT; " + commands(block)[0]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    got = tmp_path / "arrived"
    wait_until(lambda: got.exists() and len(arrived(tmp_path)) >= 100, "the first hundred lines")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.stdout
    output = process.stdout.readline()
    # A shell that was just waiting for seq goes on with its loop, for ever.
    os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert re.fullmatch(shown_output(block), output), (output, errors)
    assert "Traceback" not in errors


def test_the_spool_keeps_what_no_collector_took(sandbox: list[str], tmp_path: Path) -> None:
    block = blocks(section("A pipe"))[2]
    first, second = commands(block)
    process = subprocess.Popen(
        [*sandbox, "trap : INT; " + first],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    output = process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    output += process.communicate(timeout=DEADLINE_S)[0]
    output += run(sandbox, tmp_path, second + waits_for(100))
    assert re.fullmatch(shown_output(block), output), output
    events = [strict_json(line) for line in arrived(tmp_path)]
    assert [event["message"] for event in events] == [str(n) for n in range(1, 101)]
    assert {event["type"] for event in events} == {"numbers"}
    assert not list((tmp_path / "spool").iterdir())


def test_the_fifo_stays_open_between_its_writers(sandbox: list[str], tmp_path: Path) -> None:
    script = "\n".join(commands(blocks(section("A FIFO"))[0]))
    output = run(sandbox, tmp_path, script + waits_for(2) + "kill %1; wait")
    assert [strict_json(line)["message"] for line in arrived(tmp_path)] == ["started", "working"]
    assert output.startswith("Processed 2 messages in ")


def test_the_logstash_example_sends_events_with_host_and_time(
    sandbox: list[str], tmp_path: Path
) -> None:
    command = commands(blocks(section("Logstash"))[0])[0]
    run(sandbox, tmp_path, command + waits_for(100))
    event = strict_json(arrived(tmp_path)[0])
    assert list(event) == ["message", "type", "@pid", "@timestamp", "host"]


def test_the_watermarks_are_printed_as_shown(sandbox: list[str], tmp_path: Path) -> None:
    block = blocks(section("Options"))[0]
    output = run(sandbox, tmp_path, "\n".join(commands(block)))
    assert re.fullmatch(shown_output(block), output), output


def test_the_first_command_shows_a_shipment(tmp_path: Path) -> None:
    first, second = commands(blocks(README)[0])
    assert second == "make test"  # it is what runs this
    done = subprocess.run(
        first.split(), cwd=TOP, stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    events = [line for line in done.stdout.splitlines() if line.startswith('{"message":')]
    assert len(events) == 5, done.stdout


def test_the_debian_packages_named_are_those_the_tests_install() -> None:
    packages = commands(blocks(section("Install"))[0])[0].split()[2:]
    makefile = (TOP / "Makefile").read_text()
    installed = re.search(r"^DEBIAN = (.*)$", makefile, re.MULTILINE)
    assert installed
    assert set(packages) <= set(installed[1].split())


@pytest.mark.parametrize(
    ("title", "parser"),
    [("Options", zmqpush.build_parser("")), ("A collector", zmqpull.build_parser(""))],
    ids=["zmqpush", "zmqpull"],
)
def test_every_option_is_in_the_table(title: str, parser: argparse.ArgumentParser) -> None:
    table = re.findall(r"^\| (`.*?) \| ", section(title), re.MULTILINE)
    named = set(re.findall(r"(?<!\w)-{1,2}[a-z-]+", " ".join(table)))
    known: set[str] = set()
    for action in parser._actions:
        assert isinstance(action, argparse.Action)
        known.update(action.option_strings)
    assert named == known


def test_the_acknowledged_pair_does_what_is_shown(sandbox: list[str], tmp_path: Path) -> None:
    block = blocks(section("With nothing lost between them"))[0]
    start, ship = commands(block)
    script = f"""
{start.rstrip("& ")} 2>said & collector=$!
trap 'kill $collector' EXIT
{ship}
sqlite3 events.db 'SELECT count(*) FROM event' >count
"""
    output = run(sandbox, tmp_path, script, peer="")
    assert re.fullmatch(shown_output(block), output), output
    assert (tmp_path / "count").read_text() == "1000\n"


def test_the_collector_prints_what_is_shown(sandbox: list[str], tmp_path: Path) -> None:
    block = blocks(section("A collector"))[0]
    output = run(sandbox, tmp_path, "exec 2>&1; " + commands(block)[0], peer="")
    assert re.fullmatch(shown_output(block), output), output


@pytest.mark.skipif(not shutil.which("logrotate"), reason="logrotate is not installed")
def test_logrotate_rotates_the_collectors_file(sandbox: list[str], tmp_path: Path) -> None:
    command = commands(blocks(section("A collector"))[1])[0]
    (tmp_path / "logrotate.conf").write_text(blocks(section("A collector"), "conf")[0])
    (tmp_path / "logrotate.conf").chmod(0o644)
    script = f"""
mount -t tmpfs -o mode=755 tmpfs /var/log
{command} 2>said & collector=$!
trap 'kill $collector' EXIT
echo one | zmqpush.py -q
until grep -qs one /var/log/events.json; do sleep 0.01; done
logrotate --force --state "$PWD/state" logrotate.conf
until [ -e /var/log/events.json ]; do sleep 0.01; done
echo two | zmqpush.py -q
until grep -qs two /var/log/events.json; do sleep 0.01; done
cat /var/log/events.json.1 /var/log/events.json
"""
    output = run(sandbox, tmp_path, script, peer="")
    assert [strict_json(line.encode())["message"] for line in output.splitlines()] == ["one", "two"]


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
def test_workers_take_what_the_collector_pushed(sandbox: list[str], tmp_path: Path) -> None:
    command = commands(blocks(section("A collector"))[2])[0]
    script = f"""
redis-server --save '' >redis & redis=$!
disown
{command} 2>said & collector=$!
trap 'kill $redis $collector' EXIT
echo one | zmqpush.py -q
redis-cli --raw BLPOP logstash 10
"""
    key, event = run(sandbox, tmp_path, script, peer="").splitlines()
    assert (key, strict_json(event.encode())["message"]) == ("logstash", "one")


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="sqlite3 is not installed")
def test_the_table_can_be_asked_as_shown(sandbox: list[str], tmp_path: Path) -> None:
    collect, ask = commands(blocks(section("A collector"))[3])
    script = f"""
{collect} -n 6 2>said & collector=$!
seq 1 2 | zmqpush.py one -q
seq 1 4 | zmqpush.py two -q
wait $collector
{ask}
"""
    assert run(sandbox, tmp_path, script, peer="") == "one|2\ntwo|4\n"


@pytest.mark.skipif(not shutil.which("rsyslogd"), reason="rsyslogd is not installed")
@pytest.mark.parametrize("number", [0, 1, 2], ids=["modern", "legacy", "nothing lost"])
def test_rsyslog_ships_with_the_configuration_shown(
    number: int, sandbox: list[str], tmp_path: Path
) -> None:
    """To the default endpoint, with the program where it was installed."""
    source = f'''module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{tmp_path}/log")
'''
    (tmp_path / "rsyslog.conf").write_text(source + blocks(section("rsyslog"), "")[number])
    script = 'until [ -S log ]; do sleep 0.01; done; logger -u "$PWD/log" -t app hello'
    run(sandbox, tmp_path, script + waits_for(1), PRINTER + RSYSLOGD)
    event = strict_json(arrived(tmp_path)[0])
    assert event["type"] == "syslog"
    assert re.fullmatch(r"<\d+>1 \S+ \S+ app - - - +hello", event["message"]), event


@pytest.mark.skipif(not shutil.which("rsyslogd"), reason="rsyslogd is not installed")
def test_rsyslog_receives_with_the_configuration_shown(sandbox: list[str], tmp_path: Path) -> None:
    (tmp_path / "rsyslog.conf").write_text(blocks(section("A receiver in rsyslog"), "")[0])
    script = "echo test | zmqpush.py -q; until grep . /var/log/collected.json; do sleep 0.01; done"
    output = run(sandbox, tmp_path, script + " 2>&-", RSYSLOGD)
    event = strict_json(output.encode())
    assert event == {"message": "test", "type": "syslog", "@pid": event["@pid"]}


def test_the_figures_are_those_of_the_bench() -> None:
    figures = (TOP / "docs/figures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \|$", section("Figures"), re.MULTILINE)
    assert len(rows) > 10
    assert [row for row in rows if row not in figures.splitlines()] == []

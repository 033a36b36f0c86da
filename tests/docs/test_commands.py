"""The commands of the README, docs/options.md and docs/guarantees.md do what is shown."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import block, read, section
from tests.docs.sandbox import (
    BY_HAND,
    PRINTER,
    PROGRAMS,
    Sandbox,
    ran,
    runs,
    waits_for,
)
from tests.support.checkout import make_checkout
from tests.support.collector import strict_json
from tests.support.programs import TOP
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.long

FIRST = block("README.md", "zmqpush")
BY_PIP = block("README.md", "Install")
BOTH_ENDS = block("README.md", "A pipe", 0)
PIPES = block("README.md", "A pipe", 1)
CTRL_C = block("README.md", "A pipe", 2)
LOGSTASH = block("README.md", "Logstash")
NOTHING_LOST = block("README.md", "Nothing lost")
VARIABLES = block("docs/options.md", "Variables, sizes, errors")
VARIABLES_SEND = block("docs/options.md", "Variables, sizes, errors", language="json")
FIFO = block("docs/options.md", "Read from a pipe, a file or a FIFO")
PIECES = block("docs/options.md", "Read from a pipe, a file or a FIFO", 1)
PIECES_SENT = block("docs/options.md", "Read from a pipe, a file or a FIFO", language="json")
JSON = block("docs/options.md", "Choose what an event looks like")
JSON_SENDS = block("docs/options.md", "Choose what an event looks like", language="json")
WATERMARKS = block("docs/options.md", "zmqpush-watermark.py")
SPOOL = block("docs/guarantees.md", "A spool directory")
LIST = block("docs/guarantees.md", "A spool directory", 1)
FLAG = block("docs/guarantees.md", "Signals")

PIP_S = 120  # on a busy machine


# ---- the README -------------------------------------------------------------------------------


@runs(FIRST, apart_from=("make test",))  # it is what runs this
def test_the_first_command_shows_a_shipment() -> None:
    command = FIRST.commands[0]
    ran.append(command)
    done = subprocess.run(
        command.split(), cwd=TOP, stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    events = [line for line in done.stdout.splitlines() if line.startswith('{"message":')]
    assert len(events) == 5, done.stdout


@pytest.mark.timeout(2 * PIP_S + 20)
@runs(BY_PIP)
def test_pip_installs_the_commands_that_are_named(tmp_path: Path) -> None:
    make_checkout(tmp_path / "checkout")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=PIP_S)
    (command,) = BY_PIP.commands
    ran.append(command)
    path = f"{tmp_path}/venv/bin:{os.environ['PATH']}"
    # What we depend on is in the way here: test_install has it.
    settings = {"PIP_NO_DEPS": "1", "PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "5"}
    done = subprocess.run(
        command.split(),
        cwd=tmp_path / "checkout",
        env={**os.environ, "PATH": path, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=PIP_S,
    )
    if done.returncode and re.search("Connection|Temporary failure|timed out", done.stderr):
        pytest.skip("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr
    installed = {each.name for each in (tmp_path / "venv/bin").glob("zmq*")}
    named = section("README.md", "Install").split("This installs", 1)[1].split("Install `", 1)[0]
    assert set(re.findall(r"`(zmq.*?)`", named)) == installed


@runs(BY_HAND, apart_from=("apt-get",))
def test_the_programs_run_where_they_are_copied_to(tmp_path: Path) -> None:
    names = " ".join(PROGRAMS)
    script = f'for name in {names}; do "$name" --version; readlink -f "$(which "$name")"; done'
    sandbox = Sandbox(tmp_path)
    output = sandbox.run(script, peer="").splitlines()
    ran.append((tmp_path / "preamble").read_text())
    assert [line.split()[0] for line in output[::2]] == PROGRAMS
    assert output[1::2] == [f"/usr/local/lib/zmqpush/{name}" for name in PROGRAMS]


def test_the_debian_packages_named_are_those_the_tests_install() -> None:
    packages = BY_HAND.commands[0].split()[2:]
    makefile = (TOP / "Makefile").read_text()
    installed = re.search(r"^DEBIAN = (.*)$", makefile, re.MULTILINE)
    assert installed
    assert set(packages) <= set(installed[1].split())


@runs(BOTH_ENDS)
def test_the_collector_prints_what_is_shown(tmp_path: Path) -> None:
    output = Sandbox(tmp_path).run("exec 2>&1; " + BOTH_ENDS.commands[0], peer="")
    assert re.fullmatch(BOTH_ENDS.output, output), output


@runs(PIPES)
def test_the_pipe_examples_print_and_send_what_is_shown(tmp_path: Path) -> None:
    log = Path("/var/log/dpkg.log").read_bytes().splitlines()
    sandbox = Sandbox(tmp_path)
    output = sandbox.run("\n".join(PIPES.commands) + waits_for(401 + len(log)))
    assert re.fullmatch(PIPES.output, output), output
    events = [strict_json(line) for line in sandbox.arrived()]
    assert events[0] == {"message": "test", "type": "syslog", "@pid": events[0]["@pid"]}
    assert [event["type"] for event in events[1:101]] == ["mytype"] * 100
    last = events[-1]
    assert (last["type"], last["host"]) == ("dpkg", os.uname().nodename)
    assert last["message"] == log[-1].decode()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", last["@timestamp"])


@runs(CTRL_C)
def test_ctrl_c_ends_the_stream_with_the_summary(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    process = sandbox.start(PRINTER + "trap : INT; " + CTRL_C.commands[0], stderr=subprocess.PIPE)
    wait_until(lambda: len(sandbox.arrived()) >= 100, "the first hundred lines")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.stdout
    output = process.stdout.readline()
    # A shell that was just waiting for seq goes on with its loop, for ever.
    os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert re.fullmatch(CTRL_C.output, output), (output, errors)
    assert "Traceback" not in errors


@runs(LOGSTASH)
def test_the_logstash_example_sends_events_with_host_and_time(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.run(LOGSTASH.commands[0] + waits_for(100))
    assert list(strict_json(sandbox.arrived()[0])) == [
        "message",
        "type",
        "@pid",
        "@timestamp",
        "host",
    ]


@runs(NOTHING_LOST)
def test_the_acknowledged_pair_does_what_is_shown(tmp_path: Path) -> None:
    start, ship = NOTHING_LOST.commands
    script = f"""
{start.rstrip("& ")} 2>said & collector=$!
trap 'kill $collector' EXIT
{ship}
sqlite3 events.db 'SELECT count(*) FROM event' >count
"""
    output = Sandbox(tmp_path).run(script, peer="")
    assert re.fullmatch(NOTHING_LOST.output, output), output
    assert (tmp_path / "count").read_text() == "1000\n"


# ---- options and guarantees -------------------------------------------------------------------


@runs(VARIABLES, VARIABLES_SEND)
def test_the_variables_make_the_event_that_is_shown(tmp_path: Path) -> None:
    check_sends(tmp_path, "\n".join(VARIABLES.commands), VARIABLES_SEND.text)


@runs(JSON, JSON_SENDS)
def test_a_json_line_becomes_the_event_that_is_shown(tmp_path: Path) -> None:
    check_sends(tmp_path, "\n".join(JSON.commands), JSON_SENDS.text)


@runs(PIECES, PIECES_SENT)
def test_the_pieces_of_a_long_line_are_those_that_are_shown(tmp_path: Path) -> None:
    check_sends(tmp_path, "\n".join(PIECES.commands), PIECES_SENT.text)


def check_sends(folder: Path, script: str, shown: str) -> None:
    """The script sends the events that are `shown`, but for the pid."""
    sandbox = Sandbox(folder)
    sandbox.run(script + waits_for(shown.count("\n")))
    ran.append(shown)
    events = b"\n".join(sandbox.arrived()).decode()
    assert re.sub(r'"@pid":\d+', '"@pid":0', events) == re.sub(
        r'"@pid":\d+', '"@pid":0', shown.strip()
    )


@runs(FIFO)
def test_the_fifo_stays_open_between_its_writers(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    output = sandbox.run("\n".join(FIFO.commands) + waits_for(2) + "kill %1; wait")
    assert [strict_json(line)["message"] for line in sandbox.arrived()] == ["started", "working"]
    assert output.startswith("Processed 2 messages in ")
    assert "`kill %1`" in read("docs/options.md")


@runs(WATERMARKS)
def test_the_watermarks_are_printed_as_shown(tmp_path: Path) -> None:
    output = Sandbox(tmp_path).run("\n".join(WATERMARKS.commands), peer="")
    assert re.fullmatch(WATERMARKS.output, output), output


@runs(FLAG)
def test_a_flag_that_was_left_behind_is_put_back(tmp_path: Path) -> None:
    script = f"""
mkfifo fifo
exec <>fifo
flags() {{ awk '/^flags/ {{ print $2 }}' /proc/$$/fdinfo/0; }}
is_blocking() {{ [ $((0$(flags) & 04000)) = 0 ]; }}
zmqpush.py -q <&0 & shipper=$!
disown
while is_blocking; do sleep 0.01; done
kill -9 $shipper
tail --pid=$shipper -f /dev/null
is_blocking || echo left behind
{FLAG.commands[0]}
is_blocking && echo put back
"""
    assert Sandbox(tmp_path).run(script) == "left behind\nput back\n"


@runs(SPOOL)
def test_the_spool_keeps_what_no_collector_took(tmp_path: Path) -> None:
    first, second = SPOOL.commands
    sandbox = Sandbox(tmp_path)
    process = sandbox.start("trap : INT; " + first, stderr=subprocess.STDOUT)
    assert process.stdout
    output = process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    output += process.communicate(timeout=DEADLINE_S)[0]
    output += sandbox.run(second + waits_for(100))
    assert re.fullmatch(SPOOL.output, output), output
    events = [strict_json(line) for line in sandbox.arrived()]
    assert [event["message"] for event in events] == [str(n) for n in range(1, 101)]
    assert {event["type"] for event in events} == {"numbers"}
    assert not list((tmp_path / "spool").iterdir())


@runs(LIST)
def test_what_waits_in_a_spool_is_listed(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    shipping, listing = LIST.commands
    output = sandbox.run(f"exec 2>&1; {shipping}; {listing}")
    same_blanks = re.compile(" +")
    assert re.fullmatch(same_blanks.sub(" +", LIST.output.replace("\\ ", " ")), output), output

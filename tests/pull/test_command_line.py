"""The collector's command line: every option, its variable, and what is refused."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

import zmqpull
import zmqpush
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.proc import wait_until_acts_on
from tests.support.programs import Shipper
from tests.support.pulling import ANY_PORT, PROGRAM, Pull, Push, lines_in

Capture = pytest.CaptureFixture[str]


# Of each option: a value of its variable, what that means, arguments that say otherwise, and what
# those mean.
OPTIONS: dict[str, tuple[str, Any, list[str], Any]] = {
    "bind": (
        "tcp://*:1  'ipc:///b c'",
        ["tcp://*:1", "ipc:///b c"],
        ["-b", "tcp://127.0.0.1:*", "--bind=tcp://[::1]:3"],
        ["tcp://127.0.0.1:*", "tcp://[::1]:3"],
    ),
    "connect": (
        "tcp://a:1 tcp://[::1]:2",
        ["tcp://a:1", "tcp://[::1]:2"],
        ["-c", "tcp://b:3"],
        ["tcp://b:3"],
    ),
    "output": ("'/a b' c", ["/a b", "c"], ["-o", "d", "--output", "e"], ["d", "e"]),
    "redis": ("redis://a", "redis://a", ["--redis", "redis://b:1/2"], "redis://b:1/2"),
    "key": ("a b", "a b", ["--key", "c"], "c"),
    "redis_limit": ("5", 5, ["--redis-limit", "1000"], 1000),
    "sqlite": ("'/a b' c", ["/a b", "c"], ["--sqlite", "d"], ["d"]),
    "dead_letter": ("/a b", "/a b", ["--dead-letter", "c"], "c"),
    "pid_file": ("/a b", "/a b", ["--pid-file", "c"], "c"),
    "n": ("5", 5, ["-n", "2147483647"], 2**31 - 1),
    "ack": ("1", True, ["--ack"], True),
    "rcvhwm": ("5", 5, ["--rcvhwm", "0"], 0),
    "max_message": ("5k", 5120, ["--max-message", "0"], 0),
    "memory_limit": ("5M", 5 * 1024**2, ["--memory-limit", "0"], 0),
    "curve_keygen": ("a b", "a b", ["--curve-keygen", "c"], "c"),
    "curve_key": ("a b", "a b", ["--curve-key", "c"], "c"),
    "curve_server_key": ("'a b'", ["a b"], ["--curve-server-key", "c"], ["c"]),
    "curve_clients": ("a b", "a b", ["--curve-clients", "any"], "any"),
    "stats": ("0.5", 0.5, ["--stats", "60"], 60.0),
    "quiet": ("yes", True, ["-q"], True),
}

NEEDS = {  # what must be said beside them
    "redis_limit": ["--redis", "redis://a"],
    "curve_key": ["--curve-clients", "any"],
    "curve_server_key": ["--connect", "tcp://a:1", "--curve-key", "f"],
    "curve_clients": ["--curve-key", "f"],
}


def parse(*arguments: str) -> dict[str, Any]:
    return vars(zmqpull.parse_options(zmqpull.build_parser("test"), list(arguments)))


def test_the_defaults_are_those_of_the_description() -> None:
    assert parse() == {
        "bind": ["tcp://127.0.0.1:2120"],
        "connect": [],
        "output": [],
        "redis": "",
        "key": "logstash",
        "redis_limit": 0,
        "sqlite": [],
        "dead_letter": "",
        "pid_file": "",
        "n": 0,
        "ack": False,
        "rcvhwm": 1000,
        "max_message": 64 * 1024**2,
        "memory_limit": 64 * 1024**2,
        "curve_keygen": "",
        "curve_key": "",
        "curve_server_key": [],
        "curve_clients": "",
        "stats": 0.0,
        "quiet": False,
    }
    assert set(OPTIONS) == set(parse()), "the table of this test has every option"


def test_what_connects_does_not_bind_by_default() -> None:
    assert parse("-c", "tcp://a:1")["bind"] == []
    assert parse("-c", "tcp://a:1", "-b", "tcp://*:2")["bind"] == ["tcp://*:2"]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_its_variable_which_the_command_line_replaces(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, meaning, arguments, other = OPTIONS[name]
    assert parse()[name] != meaning
    monkeypatch.setenv(f"ZMQPULL_{name.upper()}", variable)
    assert parse(*NEEDS.get(name, []))[name] == meaning
    assert parse(*NEEDS.get(name, []), *arguments)[name] == other
    monkeypatch.setenv(f"ZMQPULL_{name.upper()}", "")
    assert parse()[name] != meaning


def test_variables_say_all_to_the_real_program(ship: Ship, push: Push, tmp_path: Path) -> None:
    variables = {
        "ZMQPULL_BIND": f"ipc://{tmp_path}/a ipc://{tmp_path}/b",
        "ZMQPULL_OUTPUT": str(tmp_path / "file"),
        "ZMQPULL_N": "2",
        "ZMQPULL_QUIET": "1",
    }
    puller = ship(program=PROGRAM, env={**os.environ, **variables})
    for name in "ab":
        push(f"ipc://{tmp_path}/{name}").send(b"{}")
    result = puller.finish()
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert lines_in(tmp_path / "file") == [b"{}", b"{}"]


def test_version_is_that_of_zmqpush(ship: Ship) -> None:
    result = ship("--version", program=PROGRAM).finish()
    said = (result.status, result.stdout, result.stderr)
    assert said == (0, f"{PROGRAM} {zmqpush.__version__}\n", "")


def test_help_tells_of_every_option() -> None:
    told = zmqpull.build_parser("test").format_help()
    for name in set(OPTIONS) - {"n"}:
        assert re.search(rf"(?<!\S)--{name.replace('_', '-')}\b", told), name
    assert re.search(r"(?<!\S)-n N\b", told)
    assert "ZMQPULL_" in told


def test_help_has_groups_examples_and_the_statuses(ship: Ship) -> None:
    told = ship("--help", program=PROGRAM).finish().stdout
    for heading in ("choose where events come from:", "limit the memory:", "examples:"):
        assert f"\n{heading}\n" in told
    assert re.search(r"exit status:\n  0  .*\n  1  .*\n  2  ", told)
    assert told.count(f"\n  {PROGRAM} --bind") == 2


def test_it_tells_what_it_listens_to_unless_it_is_to_be_quiet(pull: Pull, tmp_path: Path) -> None:
    endpoints = [f"ipc://{tmp_path}/{name}" for name in "ab"]
    binds = [word for endpoint in endpoints for word in ("-b", endpoint)]
    for quiet in ([], ["-q"]):
        puller = pull(*binds, *quiet)
        wait_until_acts_on(puller.pid, signal.SIGTERM)
        puller.end(signal.SIGTERM)
        told = (tmp_path / f"said-{len(quiet)}").read_text().splitlines()
        expected = [f"zmqpull.py: bound to {endpoint}" for endpoint in endpoints]
        assert told == ([] if quiet else [*expected, "zmqpull.py: 0 events written"])


# ---- bad use ----------------------------------------------------------------------------------


def refused(puller: Shipper) -> str:
    """The one line with which it has ended."""
    result = puller.finish()
    assert (result.status, result.stdout) == (2, "")
    said = re.fullmatch(r"zmqpull\.py: (.+)\n", result.stderr)
    assert said, result.stderr
    return said[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["word"], "word"),
        (["-b", "tcp:/x"], "tcp:/x"),
        (["-c", "tcp://127.0.0.1:99999"], "tcp://127.0.0.1:99999"),
        (["-c", "tcp://*:2120"], "tcp://*:2120"),
        (["-c", "tcp://a:*"], "tcp://a:*"),
        (["-b", "tcp://a:1", "-c", "tcp://a:1"], "tcp://a:1 cannot be both"),
        (["-n", "0"], "-n"),
        (["-n", "many"], "many"),
        (["--stats", "0"], "--stats"),
        (["--rcvhwm", "-1"], "--rcvhwm"),
        (["--max-message", "much"], "much"),
        (["--memory-limit", "-5"], "--memory-limit"),
        (["--redis-limit", "5"], "--redis-limit is for --redis"),
        (["--redis", "redis://a", "--redis-limit", "0"], "--redis-limit"),
    ],
)
def test_options_that_cannot_be_are_one_line_and_status_2(
    arguments: list[str], named: str, capfd: Capture
) -> None:
    with pytest.raises(SystemExit) as ending:
        parse(*arguments)
    stdout, stderr = capfd.readouterr()
    assert (ending.value.code, stdout, stderr.count("\n")) == (2, "", 1)
    assert named in stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--frobnicate\nbe"], "--frobnicate"),
        (["-b", "tcp://192.0.2.1:2120"], "tcp://192.0.2.1:2120: Cannot assign"),  # RFC 5737
        (["-b", "ipc:///nowhere/at/all"], "ipc:///nowhere/at/all: No such file"),
        (["-o", "/"], "/: Is a directory"),
        (["--pid-file", "/nowhere/file"], "--pid-file /nowhere/file: No such file"),
        (["--dead-letter", "/nowhere/file"], "--dead-letter /nowhere/file: No such file"),
        (["--sqlite", "/nowhere/file"], "--sqlite /nowhere/file: unable to open"),
        (["--sqlite", __file__], f"--sqlite {__file__}: file is not a database"),
        (["--redis", "http://localhost"], "--redis: Redis URL"),
        (["--redis", "redis://localhost?nonsense=1"], "nonsense"),
    ],
)
def test_bad_use_is_one_line_and_status_2(arguments: list[str], named: str, ship: Ship) -> None:
    if not {"-b", "--bind"} & set(arguments):
        arguments = ["-b", ANY_PORT, *arguments]
    assert named in refused(ship(*arguments, program=PROGRAM))


def test_a_tcp_address_in_use_is_refused(collector: Collector, ship: Ship) -> None:
    said = refused(ship("-b", collector.endpoint, program=PROGRAM))
    assert said == f"{collector.endpoint}: Address already in use"


def test_an_ipc_path_in_use_is_refused_and_left_to_its_owner(
    collect: Collect, ship: Ship, tmp_path: Path
) -> None:
    collector = collect(f"ipc://{tmp_path}/s")
    said = refused(ship("-b", collector.endpoint, program=PROGRAM))
    assert said == f"{collector.endpoint}: Address already in use"
    ship("-c", collector.endpoint).finish(b"x\n")
    assert collector.texts(1) == ["x"]


def test_a_file_at_an_ipc_path_is_refused_and_kept(ship: Ship, tmp_path: Path) -> None:
    precious = tmp_path / "file"
    precious.write_text("precious")
    said = refused(ship("-b", f"ipc://{precious}", program=PROGRAM))
    assert said == f"ipc://{precious}: File exists"
    assert precious.read_text() == "precious"


@pytest.mark.long
def test_without_its_package_redis_is_refused_and_all_else_works(
    ship: Ship, pull: Pull, push: Push, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['redis'] = None")
    without = {"env": {**os.environ, "PYTHONPATH": str(tmp_path)}}
    said = refused(ship("--redis", "redis://localhost", program=PROGRAM, **without))
    assert "--redis" in said
    assert "install python3-redis (Debian), or zmqpush[redis]" in said
    puller = pull("-n", "1", **without)
    push(puller.endpoint).send(b"{}")
    assert puller.read(1) == [b"{}"]
    puller.end()

"""What one can say to the shipper: each option, its variable, its default, and the help."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import pytest

import zmqpush
from tests.push.command_line import parse
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.running import SHIPPERS

# Of each option: a value of its variable, what that means, arguments that say otherwise, and what
# those mean.
OPTIONS: dict[str, tuple[str, Any, list[str], Any]] = {
    "logtype": ("my app", "my app", ["web"], "web"),
    "connect": (
        "tcp://a:1 'ipc:///b c'",
        ["tcp://a:1", "ipc:///b c"],
        ["-c", "tcp://[::1]:2", "--connect", "tcp://b:3"],
        ["tcp://[::1]:2", "tcp://b:3"],
    ),
    "bind": (
        "tcp://*:1  ipc://@b",
        ["tcp://*:1", "ipc://@b"],
        ["-b", "tcp://127.0.0.1:*", "--bind=tcp://*:3"],
        ["tcp://127.0.0.1:*", "tcp://*:3"],
    ),
    "field": (
        "host=a 'note=x \"y\" z' empty=",
        [("host", "a"), ("note", 'x "y" z'), ("empty", "")],
        ["-f", "a=b=c", "--field", "d= "],
        [("a", "b=c"), ("d", " ")],
    ),
    "timestamp": ("yes", True, ["--timestamp"], True),
    "format": ("json", "json", ["--format", "raw"], "raw"),
    "batch": ("500", 500, ["--batch", "2"], 2),
    "max_line": ("2kB", 2048, ["--max-line", "4"], 4),
    "sndhwm": ("0", 0, ["--sndhwm=2147483647"], 2**31 - 1),
    "high_water": ("1M", 1024**2, ["--high-water", "2m"], 2 * 1024**2),
    "low_water": ("1K", 1024, ["--low-water", "65536"], 65536),
    "gather": ("0.1", 0.1, ["--gather", "0"], 0.0),
    "queue_limit": ("1G", 1024**3, ["--queue-limit", "1GB"], 1024**3),
    "linger": ("0.5", 0.5, ["--linger", "-1"], math.inf),
    "spool": ("/a b", "/a b", ["--spool", "c"], "c"),
    "spool_limit": ("1G", 1024**3, ["--spool-limit", "1g"], 1024**3),
    "list": ("1", True, ["--list"], True),
    "omprog": ("1", True, ["--omprog"], True),
    "omprog_transactions": ("1", True, ["--omprog-transactions"], True),
    "omprog_begin": ("B B", "B B", ["--omprog-begin", "<"], "<"),
    "omprog_commit": ("C C", "C C", ["--omprog-commit", ">"], ">"),
    "ack": ("1", True, ["--ack"], True),
    "curve_keygen": ("a b", "a b", ["--curve-keygen", "c"], "c"),
    "curve_key": ("a b", "a b", ["--curve-key", "c"], "c"),
    "curve_server_key": ("'a b'", ["a b"], ["--curve-server-key", "c"], ["c"]),
    "curve_clients": ("a b", "a b", ["--curve-clients", "any"], "any"),
    "stats": ("0.5", 0.5, ["--stats", "60"], 60.0),
    "progress": ("1", True, ["--progress"], True),
    "quiet": ("true", True, ["-q"], True),
}
NEEDS = {  # what must be said beside them
    "spool_limit": ["--spool", "d"],
    "list": ["--spool", "d"],
    "curve_key": ["--curve-server-key", "k"],
    "curve_server_key": ["--curve-key", "f"],
    "curve_clients": ["--bind", "tcp://*:1", "--curve-key", "f"],
    "omprog_transactions": ["--omprog"],
    "omprog_begin": ["--omprog", "--omprog-transactions"],
    "omprog_commit": ["--omprog", "--omprog-transactions"],
}
SWITCHES = [name for name, (_, value, _, _) in OPTIONS.items() if value is True]


def test_the_table_of_this_test_has_every_option() -> None:
    assert set(OPTIONS) == set(parse())


def test_the_defaults_are_those_of_the_readme() -> None:
    assert parse() == {
        "logtype": "syslog",
        "connect": ["tcp://127.0.0.1:2120"],
        "bind": [],
        "field": [],
        "timestamp": False,
        "format": "logstash",
        "batch": 1,
        "max_line": 1024**2,
        "sndhwm": 1000,
        "high_water": 65536,
        "low_water": 16384,
        "gather": 0.04,
        "queue_limit": 0,
        "linger": math.inf,
        "spool": "",
        "spool_limit": 0,
        "list": False,
        "omprog": False,
        "omprog_transactions": False,
        "omprog_begin": "BEGIN TRANSACTION",
        "omprog_commit": "COMMIT TRANSACTION",
        "ack": False,
        "curve_keygen": "",
        "curve_key": "",
        "curve_server_key": [],
        "curve_clients": "",
        "stats": 0.0,
        "progress": False,
        "quiet": False,
    }


def test_what_binds_does_not_connect_by_default() -> None:
    assert parse("-b", "tcp://*:1")["connect"] == []
    assert parse("-b", "tcp://*:1", "-c", "tcp://a:2")["connect"] == ["tcp://a:2"]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, meaning, _, _ = OPTIONS[name]
    assert parse()[name] != meaning
    monkeypatch.setenv(f"ZMQPUSH_{name.upper()}", variable)
    assert parse(*NEEDS.get(name, []))[name] == meaning


@pytest.mark.parametrize("name", OPTIONS)
def test_the_command_line_replaces_the_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, _, arguments, meaning = OPTIONS[name]
    monkeypatch.setenv(f"ZMQPUSH_{name.upper()}", variable)
    assert parse(*NEEDS.get(name, []), *arguments)[name] == meaning


@pytest.mark.parametrize("name", OPTIONS)
def test_an_empty_variable_says_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = parse()[name]
    monkeypatch.setenv(f"ZMQPUSH_{name.upper()}", "")
    assert parse()[name] == default


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", ["1", "yes", "true", "TRUE", "0", "no", "false", "False"])
def test_a_switch_is_on_at_1_yes_and_true(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ZMQPUSH_{name.upper()}", value)
    assert parse(*NEEDS.get(name, []))[name] is (value.lower() in ("1", "yes", "true"))


@pytest.mark.parametrize("value", ["-x", "--", "--format", "a b", "1"])
def test_a_variable_is_a_value_whatever_it_looks_like(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZMQPUSH_LOGTYPE", value)
    assert parse()["logtype"] == value


def test_max_line_0_is_no_limit(collector: Collector, ship: Ship) -> None:
    line = "x" * 3_000_000
    ship("-c", collector.endpoint, "--max-line", "0").finish(line.encode())
    assert collector.texts(1) == [line]


def test_variables_say_all_that_the_first_description_could_not_pass(
    collector: Collector, ship: Ship
) -> None:
    variables = {
        "ZMQPUSH_LOGTYPE": "mytype",
        "ZMQPUSH_CONNECT": collector.endpoint,
        "ZMQPUSH_FIELD": "host=a 'note=b c'",
        "ZMQPUSH_MAX_LINE": "4",
        "ZMQPUSH_QUIET": "1",
    }
    shipper = ship(env={**os.environ, **variables})
    result = shipper.finish(b"abcdef\n")
    members = {"type": "mytype", "@pid": shipper.pid, "host": "a", "note": "b c"}
    events = collector.events(2)
    assert [event.pop("piece")["size"] for event in events] == [4, 2]
    assert events == [{"message": "abcd", **members}, {"message": "ef", **members}]
    assert (result.status, result.stdout) == (0, "")


# ---- help -------------------------------------------------------------------------------------


def test_version_is_that_of_the_program(ship: Ship) -> None:
    result = ship("--version").finish()
    assert (result.status, result.stdout, result.stderr) == (
        0,
        f"zmqpush.py {zmqpush.__version__}\n",
        "",
    )


@pytest.mark.parametrize("program", SHIPPERS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_tells_of_every_option(program: str, option: str, ship: Ship) -> None:
    result = ship(option, program=program).finish()
    assert (result.status, result.stderr) == (0, "")
    for name in set(OPTIONS) - {"logtype"}:
        assert re.search(rf"(?<!\S)--{name.replace('_', '-')}\b", result.stdout), name
    assert "LOGTYPE" in result.stdout
    for title in ("choose where events go", "lose nothing", "run under rsyslog"):
        assert f"\n{title}:\n" in result.stdout
    if program != "zmqpush.py":
        return
    assert re.search(rf"^examples:\n  .*\b{re.escape(program)} ", result.stdout, re.M)
    assert re.search(r"^exit status:\n  0  .+\n  1  .+\n  2  .+$", result.stdout, re.M)
    assert "ZMQPUSH_" in result.stdout

"""Bad use is one line that says what and why, and status 2."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.push.command_line import Capture, parse, refused, refused_here
from tests.support.aliases import Ship
from tests.support.collector import Collector
from tests.support.net import NOBODY
from tests.support.running import PROGRAMS, customized

# ---- the real program -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["-c", "tcp:/x"], "tcp:/x"),
        (["-c", "tcp://127.0.0.1:99999"], "tcp://127.0.0.1:99999"),
        (["-b", "127.0.0.1:2120"], "127.0.0.1:2120"),
        (["-c", "udp://127.0.0.1:2120"], "udp://127.0.0.1:2120"),
        (["--max-line", "1x"], "--max-line"),
        (["--low-water", "1M"], "--low-water"),
        (["-f", "host"], "host"),
        (["-f", "type=x"], "type"),
        (["--format", "raw", "--batch", "2"], "--batch"),
        (["-b", "tcp://192.0.2.1:2120"], "tcp://192.0.2.1:2120: Cannot assign"),  # RFC 5737
        (["-b", "ipc:///nowhere/at/all"], "ipc:///nowhere/at/all: No such file"),
        (["-c", "tcp://*:2120"], "tcp://*:2120"),
    ],
)
def test_bad_use_is_one_line_and_status_2(arguments: list[str], named: str, ship: Ship) -> None:
    assert named in refused(ship(*arguments).finish())


def test_a_tcp_address_in_use_is_refused(collector: Collector, ship: Ship) -> None:
    said = refused(ship("-b", collector.endpoint).finish())
    assert said.startswith(collector.endpoint)
    assert "in use" in said


def test_an_ipc_path_in_use_is_refused_and_left_to_its_owner(
    collect: Callable[..., Collector], ship: Ship, tmp_path: Path
) -> None:
    collector = collect(f"ipc://{tmp_path}/s")
    said = refused(ship("-b", collector.endpoint).finish())
    assert said.startswith(collector.endpoint)
    assert "in use" in said
    ship("-c", collector.endpoint).finish(b"x\n")
    assert collector.texts(1) == ["x"]


def test_a_file_at_an_ipc_path_is_refused_and_kept(ship: Ship, tmp_path: Path) -> None:
    """libzmq would remove it, whatever it is."""
    precious = tmp_path / "file"
    precious.write_text("precious")
    result = ship("-b", f"ipc://{precious}").finish()
    assert precious.is_file()
    assert precious.read_text() == "precious"
    assert str(precious) in refused(result)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("module", ["zmq", "aiozmq"])
def test_without_its_packages_it_says_what_to_install(
    module: str, program: str, ship: Ship, tmp_path: Path
) -> None:
    without = customized(tmp_path, f"import sys; sys.modules[{module!r}] = None")
    said = refused(ship(program=program, env=without).finish(), program)
    assert f" {module}" in said
    assert "install pyzmq and aiozmq" in said


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.platform = 'darwin'",
        "import asyncio, sys; sys.platform = 'win32'; sys.modules.update(fcntl=None, termios=None)",
    ],
    ids=["darwin", "win32"],
)
def test_a_system_other_than_linux_is_refused(
    code: str, program: str, ship: Ship, tmp_path: Path
) -> None:
    shipper = ship(program=program, env=customized(tmp_path, code))
    assert "Linux" in refused(shipper.finish(), program)


def test_a_directory_as_stdin_is_refused(ship: Ship, tmp_path: Path) -> None:
    """By Python itself, before the program begins."""
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        result = ship(stdin=directory).finish()
    finally:
        os.close(directory)
    assert result.status != 0
    assert result.stdout == ""
    assert "is a directory" in result.stderr
    assert "Traceback" not in result.stderr


def test_stdin_that_is_open_for_writing_only_is_refused(ship: Ship, tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        said = refused(ship("-c", NOBODY, stdin=file).finish())
    assert "standard input" in said
    assert "writing only" in said


def test_an_error_is_one_line_whatever_it_quotes(ship: Ship) -> None:
    refused(ship("--what\nis").finish())


# ---- the options alone ------------------------------------------------------------------------


BAD_VALUES = {
    "connect": ["tcp:/x", "tcp://a:1 b", "'tcp://a:1"],
    "bind": ["udp://127.0.0.1:1"],
    "field": ["a", "a=1 type=2", '"a=1'],
    "timestamp": ["maybe", "2"],
    "format": ["yaml"],
    "batch": ["0", "many"],
    "max_line": ["3", "1T"],
    "sndhwm": ["-1"],
    "high_water": ["-1"],
    "low_water": ["1.5k"],
    "queue_limit": ["k"],
    "linger": ["-2", "soon"],
    "stats": ["-1"],
    "progress": ["on"],
    "quiet": ["y"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, bad in BAD_VALUES.items() for value in bad]
)
def test_a_bad_value_names_its_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setenv(f"ZMQPUSH_{name.upper()}", value)
    said = refused_here([], capfd)
    assert f"ZMQPUSH_{name.upper()}" in said
    assert value.split()[-1].strip("'\"") in said


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_variable_that_names_no_option_is_told_once(program: str, ship: Ship) -> None:
    """It may be a typo, and the logs go elsewhere."""
    prefix = "ZMQPULL_" if program == "zmqpull.py" else "ZMQPUSH_"
    variables = {f"{prefix}CONECT": "tcp://a:1", "OTHER_CONECT": "x", f"{prefix}QUIET": "yes"}
    arguments = ["-b", "tcp://192.0.2.1:1"] if program == "zmqpull.py" else []
    linger = ["--linger", "0"] if program == "zmqpush.py" else []
    result = ship(*arguments, *linger, program=program, env={**os.environ, **variables}).finish()
    told = [line for line in result.stderr.splitlines() if "variable" in line]
    assert told == [
        f"{program}: environment variable {prefix}CONECT names no option "
        "(--help tells which there are)"
    ]


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "tcp", "tcp:", "tcp://", "tcp:/x", "localhost", "127.0.0.1:2120", "2120"),
        *("tcp://a", "tcp://a:", "tcp://:1", "tcp://a:b", "tcp://a:-1", "tcp://a:0"),
        *("tcp://a:65536", "tcp://a:99999", "tcp://a:1.5", "tcp://a:1/x", "tcp://a/x:1"),
        *("tcp://a b:1", " tcp://a:1", "tcp://a:1\n", "tcp://::1:1", "tcp://[::1]"),
        *("tcp://[a]:1", "tcp://[::::]:1", "tcp://[:1"),
        *("udp://a:1", "inproc://a", "pgm://a:1", "http://a:1", "TCP://a:1", "tcp://a:*"),
        *("ipc:", "ipc://", "ipc:///" + "x" * 107),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(endpoint: str, capfd: Capture) -> None:
    assert repr(endpoint) in refused_here([f"--connect={endpoint}"], capfd)
    if not endpoint.endswith("*"):
        assert repr(endpoint) in refused_here([f"--bind={endpoint}"], capfd)


@pytest.mark.parametrize(
    "endpoint",
    [
        *("tcp://a:1", "tcp://a:65535", "tcp://127.0.0.1:2120", "tcp://log-1.example.org:2120"),
        *("tcp://[::1]:2120", "tcp://[fe80::1%eth0]:1", "tcp://[::ffff:127.0.0.1]:1"),
        *("ipc://a", "ipc:///run/a b", "ipc://@abstract", "ipc:///" + "x" * 106),
    ],
)
def test_an_endpoint_that_can_be_is_taken(endpoint: str) -> None:
    assert parse("-c", endpoint)["connect"] == [endpoint]
    assert parse("-b", endpoint)["bind"] == [endpoint]


@pytest.mark.parametrize("option", ["max-line", "high-water", "low-water", "queue-limit"])
@pytest.mark.parametrize(
    "size",
    [
        "",
        "x",
        "k",
        "-1",
        "+1",
        "1.5k",
        "1 k",
        "1x",
        "1T",
        "1kk",
        "1kM",
        "1b",
        "b",
        "1kbb",
        "0x10",
        "1e3",
        "1_0",
    ],
)
def test_what_is_no_size_is_refused(option: str, size: str, capfd: Capture) -> None:
    said = refused_here([f"--{option}={size}"], capfd)
    assert f"--{option}" in said
    assert repr(size) in said


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("batch", ["0", "-1", "x", "1.5", "2147483648"]),
        ("sndhwm", ["-1", "x", "2147483648"]),
        ("linger", ["-2", "-0.5", "x", "nan"]),
        ("stats", ["-1", "0", "x", "nan", "inf"]),
        ("max-line", ["1", "3"]),
        ("format", ["", "yaml", "JSON"]),
    ],
)
def test_what_is_no_number_or_out_of_range_is_refused(
    option: str, values: list[str], capfd: Capture
) -> None:
    for value in values:
        said = refused_here([f"--{option}={value}"], capfd)
        assert f"--{option}" in said
        assert repr(value) in said


@pytest.mark.parametrize(
    "field",
    ["", "a", "=", "=b", "message=x", "type=x", "@pid=1", "type=", '"a=b"', "'a=b'", '"a b"=c'],
)
def test_a_field_without_a_name_of_its_own_is_refused(field: str, capfd: Capture) -> None:
    said = refused_here([f"--field={field}"], capfd)
    assert "--field" in said
    assert repr(field) in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--high-water", "1k"], "--low-water"),  # 16k
        (["--low-water", "2k", "--high-water", "1k"], "--low-water"),
        (["--format", "raw", "--batch", "2"], "--batch"),
        (["--format", "raw", "-f", "a=b"], "--field"),
        (["--format", "raw", "--timestamp"], "--timestamp"),
        (["-f", "a=1", "-f", "a=2"], "a field is given twice: a"),
        (["--timestamp", "-f", "@timestamp=x"], "@timestamp"),
        (["-b", "tcp://127.0.0.1:1", "-c", "tcp://127.0.0.1:1"], "tcp://127.0.0.1:1"),
        (["--spool-limit", "1M"], "--spool"),
        (["--spool", "d", "--queue-limit", "1M"], "--spool-limit"),
        (["--spool", "d", "--sndhwm", "0"], "--sndhwm"),
        (["--ack", "-b", "tcp://127.0.0.1:1"], "--bind"),
        (["--omprog-transactions"], "--omprog"),
        (["--omprog", "--omprog-begin", "x"], "--omprog-transactions"),
        (["--omprog", "--omprog-transactions", "--omprog-commit="], "--omprog-commit"),
        (["--omprog", "--omprog-transactions", "--omprog-begin=COMMIT TRANSACTION"], "two texts"),
        (["one", "two"], "two"),
        (["--conn", "tcp://a:1"], "--conn"),
        (["--format json"], "--format json"),  # one word
        (["-z"], "-z"),
        (["-c"], "--connect"),
        (["--quiet=1"], "--quiet"),
    ],
)
def test_a_combination_that_means_nothing_is_refused(
    arguments: list[str], named: str, capfd: Capture
) -> None:
    assert named in refused_here(arguments, capfd)


def test_equal_watermarks_are_taken() -> None:
    options = parse("--low-water", "64k", "--high-water", "64k")
    assert options["low_water"] == options["high_water"]


@pytest.mark.parametrize(
    ("arguments", "type_this"),
    [
        (["-c", "localhost:2120"], "Type tcp://localhost:2120"),
        (["-b", "*:2120"], "Type tcp://*:2120"),
        (["-c", "[::1]:2120"], "Type tcp://[::1]:2120"),
        (["-c", "tcp://*:2121"], "Type a host: tcp://127.0.0.1:2120"),
    ],
)
def test_an_endpoint_that_is_almost_one_is_answered_with_what_to_type(
    arguments: list[str], type_this: str, capfd: Capture
) -> None:
    assert type_this in refused_here(arguments, capfd)

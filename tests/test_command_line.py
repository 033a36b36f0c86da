"""What one can say to the programs, and what they say: options, variables, errors, counters."""

from __future__ import annotations

import fcntl
import math
import os
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zmqpush
from tests.support.collector import Collector
from tests.support.programs import TOP, Result, Shipper
from tests.support.waiting import DEADLINE_S, wait_until

Ship = Callable[..., Shipper]
Capture = pytest.CaptureFixture[str]

SHIPPERS = ["zmqpush.py", "zmqpush-watermark.py"]  # have the same options
PROGRAMS = [*SHIPPERS, "zmqpull.py"]
NOBODY = "tcp://127.0.0.1:9"  # discard: no collector is there
COUNTERS = re.compile(
    r"zmqpush\.py: \d+\.\ds: (\d+) messages read, (\d+) handed over, (\d+) waiting "
    r"\((\d+) bytes\), (\d+) connected\n"
)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs the tests may use the program; and nothing but -u makes stdout unbuffered."""
    for name in os.environ:
        if name.startswith("ZMQPUSH_") or name == "PYTHONUNBUFFERED":
            monkeypatch.delenv(name)


def one_line(stderr: str, program: str = "zmqpush.py") -> str:
    """What `program` said in one line, and no more."""
    said = re.fullmatch(rf"{re.escape(program)}: (.+)\n", stderr)
    assert said, stderr
    return said[1]


def refused(result: Result, program: str = "zmqpush.py") -> str:
    """The one line with which the program has ended."""
    assert (result.status, result.stdout) == (2, "")
    return one_line(result.stderr, program)


def refused_here(arguments: list[str], capfd: Capture) -> str:
    """The same, of the options alone, in this process."""
    with pytest.raises(SystemExit) as ending:
        parse(*arguments)
    assert ending.value.code == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    return one_line(stderr, os.path.basename(sys.argv[0]))


def parse(*arguments: str) -> dict[str, Any]:
    return vars(zmqpush.parse_options(zmqpush.build_parser("test"), list(arguments)))


def customized(directory: Path, code: str) -> dict[str, str]:
    """The environment of a Python that runs `code` as it starts."""
    (directory / "sitecustomize.py").write_text(code, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(directory)}


# ---- options and their variables --------------------------------------------------------------

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
    "max_line": ("2k", 2048, ["--max-line", "4"], 4),
    "sndhwm": ("0", 0, ["--sndhwm=2147483647"], 2**31 - 1),
    "high_water": ("1M", 1024**2, ["--high-water", "2m"], 2 * 1024**2),
    "low_water": ("1K", 1024, ["--low-water", "65536"], 65536),
    "queue_limit": ("1G", 1024**3, ["--queue-limit", "1g"], 1024**3),
    "linger": ("0.5", 0.5, ["--linger", "-1"], math.inf),
    "spool": ("/a b", "/a b", ["--spool", "c"], "c"),
    "spool_limit": ("1G", 1024**3, ["--spool-limit", "1g"], 1024**3),
    "omprog": ("1", True, ["--omprog"], True),
    "omprog_transactions": ("1", True, ["--omprog-transactions"], True),
    "omprog_begin": ("B B", "B B", ["--omprog-begin", "<"], "<"),
    "omprog_commit": ("C C", "C C", ["--omprog-commit", ">"], ">"),
    "ack": ("1", True, ["--ack"], True),
    "stats": ("0.5", 0.5, ["--stats", "60"], 60.0),
    "progress": ("1", True, ["--progress"], True),
    "quiet": ("true", True, ["-q"], True),
}
NEEDS = {  # what must be said beside them
    "spool_limit": ["--spool", "d"],
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
        "queue_limit": 0,
        "linger": math.inf,
        "spool": "",
        "spool_limit": 0,
        "omprog": False,
        "omprog_transactions": False,
        "omprog_begin": "BEGIN TRANSACTION",
        "omprog_commit": "COMMIT TRANSACTION",
        "ack": False,
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
    assert collector.events(2) == [{"message": "abcd", **members}, {"message": "ef", **members}]
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
    assert "ZMQPUSH_" in result.stdout


# ---- bad use: the real program ----------------------------------------------------------------


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


# ---- bad use: the options alone ---------------------------------------------------------------


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
    ["", "x", "k", "-1", "+1", "1.5k", "1 k", "1x", "1T", "1kk", "1kM", "0x10", "1e3", "1_0"],
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


@pytest.mark.parametrize("field", ["", "a", "=", "=b", "message=x", "type=x", "@pid=1", "type="])
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


# ---- zmqpush-watermark.py ---------------------------------------------------------------------


def watermarks(ship: Ship, *arguments: str, **variables: str) -> list[str]:
    shipper = ship(*arguments, program="zmqpush-watermark.py", env={**os.environ, **variables})
    result = shipper.finish()
    assert (result.status, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_the_watermarks_are_those_of_the_first_description(ship: Ship) -> None:
    assert watermarks(ship) == ["Low watermark: 16384", "High watermark: 65536"]


def test_the_watermarks_are_what_the_options_make_of_them(ship: Ship) -> None:
    lines = watermarks(ship, "--high-water", "1M", "--low-water", "1k")
    assert lines == ["Low watermark: 1024", "High watermark: 1048576"]


def test_the_watermarks_are_what_the_variables_make_of_them(ship: Ship) -> None:
    lines = watermarks(ship, "--low-water=0", ZMQPUSH_HIGH_WATER="2k", ZMQPUSH_LOW_WATER="1k")
    assert lines == ["Low watermark: 0", "High watermark: 2048"]


def test_all_is_what_libzmq_and_the_kernel_hold_beside_them(ship: Ship) -> None:
    lines = watermarks(ship, "--all", "--sndhwm", "77")
    assert lines[:2] == ["Low watermark: 16384", "High watermark: 65536"]
    told = dict(line.split(": ", 1) for line in lines[2:])
    assert told.pop("SNDHWM") == "77"
    assert told.pop("SNDBUF").split()[0] == "-1"
    kernel = Path("/proc/sys/net/ipv4/tcp_wmem").read_text(encoding="ascii").split()
    assert told.pop("tcp_wmem").split() == kernel
    assert not told


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["--high-water", "lots"], "--high-water"),
        (["--low-water", "1M"], "--low-water"),
    ],
)
def test_bad_use_of_the_watermark_program_is_one_line_and_status_2(
    arguments: list[str], named: str, ship: Ship
) -> None:
    program = "zmqpush-watermark.py"
    assert named in refused(ship(*arguments, program=program).finish(), program)


def test_watermarks_that_cannot_be_written_are_one_line_and_no_success(ship: Ship) -> None:
    program = "zmqpush-watermark.py"
    with open("/dev/full", "wb") as full:
        result = ship(program=program, stdout=full).finish()
    assert result.status == 1
    assert "No space left" in one_line(result.stderr, program)


# ---- where the output goes --------------------------------------------------------------------


def redirected(redirection: str, *arguments: str, data: bytes = b"") -> Result:
    """Run the program with a shell's redirection, such as `>&-`."""
    words = [sys.executable, str(TOP / "zmqpush.py"), *arguments]
    with subprocess.Popen(
        ["sh", "-c", f"exec {shlex.join(words)} {redirection}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            stdout, stderr = process.communicate(data, timeout=DEADLINE_S)
        finally:
            process.kill()
        return Result(process.returncode, stdout, stderr, process.pid)


def test_quiet_is_no_summary(collector: Collector, ship: Ship) -> None:
    for option in ("-q", "--quiet"):
        result = ship("-c", collector.endpoint, option).finish(b"x\n")
        assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert collector.texts(2) == ["x", "x"]


def test_a_closed_stdout_is_no_failure(collector: Collector) -> None:
    result = redirected(">&-", "-c", collector.endpoint, data=b"x\n")
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert collector.texts(1) == ["x"]


def test_a_stdout_that_nobody_reads_is_no_failure(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint)
    assert shipper.process.stdout
    shipper.process.stdout.close()
    shipper.process.stdout = None
    result = shipper.finish(b"x\n")
    assert (result.status, result.stderr) == (0, "")
    assert collector.texts(1) == ["x"]


def test_a_full_stdout_is_told_and_no_failure(collector: Collector) -> None:
    result = redirected(">/dev/full", "-c", collector.endpoint, data=b"x\n")
    assert (result.status, result.stdout) == (0, "")
    assert "No space left" in one_line(result.stderr)
    assert collector.texts(1) == ["x"]


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_takes_nothing_is_no_failure(stderr: str, collector: Collector) -> None:
    result = redirected(stderr, "-c", collector.endpoint, "--max-line", "4", data=b"abcdef\n")
    assert (result.status, result.processed) == (0, 2)
    assert collector.texts(2) == ["abcd", "ef"]


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_bad_use_is_status_2_where_nobody_can_be_told(stderr: str) -> None:
    result = redirected(stderr, "--frobnicate")
    assert (result.status, result.stdout, result.stderr) == (2, "", "")


def test_a_closed_stdin_is_the_end_of_input(collector: Collector) -> None:
    result = redirected("<&-", "-c", collector.endpoint)
    assert (result.status, result.processed, result.stderr) == (0, 0, "")
    assert collector.is_silent()


def test_all_three_closed_is_the_end_of_input_too(collector: Collector) -> None:
    result = redirected("<&- >&- 2>&-", "-c", collector.endpoint)
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert collector.is_silent()
    assert redirected("<&- >&- 2>&-", "--frobnicate").status == 2


def test_with_stdout_and_stderr_closed_lines_are_shipped(collector: Collector) -> None:
    result = redirected(">&- 2>&-", "-c", collector.endpoint, "--stats", "0.01", data=b"x\n")
    assert result.status == 0
    assert collector.texts(1) == ["x"]


# ---- counters ---------------------------------------------------------------------------------


def read_counters(shipper: Shipper) -> tuple[int, ...]:
    """Read, handed over, waiting, bytes waiting, connected."""
    line = shipper.read_stderr_line()
    counters = COUNTERS.fullmatch(line)
    assert counters, line
    return tuple(map(int, counters.groups()))


def test_stats_is_a_line_of_counters_again_and_again(collector: Collector, ship: Ship) -> None:
    shipper = ship("-c", collector.endpoint, "--stats", "0.05")
    assert read_counters(shipper)[0] == 0
    shipper.write(b"a\nb\nc\n")
    collector.receive(3)
    wait_until(lambda: read_counters(shipper) == (3, 3, 0, 0, 1), "all is counted")
    shipper.write(b"d\n")
    wait_until(lambda: read_counters(shipper) == (4, 4, 0, 0, 1), "and counted again")


def test_stats_come_as_often_as_asked(ship: Ship) -> None:
    shipper = ship("-c", NOBODY, "--stats", "0.1")
    read_counters(shipper)
    begin = time.monotonic()
    for _ in range(5):
        read_counters(shipper)
    assert time.monotonic() - begin > 0.4


def test_sigusr1_asks_for_the_counters_at_once(ship: Ship) -> None:
    shipper = ship("-c", NOBODY, "--linger", "0")
    shipper.write(b"1234\n" * 10)
    status = Path(f"/proc/{shipper.pid}/status")

    def catches() -> bool:
        caught = re.search(r"SigCgt:\s*(\w+)", status.read_text(encoding="ascii"))
        return bool(caught and int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1)

    def asked() -> tuple[int, ...]:
        shipper.signal(signal.SIGUSR1)
        return read_counters(shipper)

    wait_until(catches, "it can be asked")
    wait_until(lambda: asked()[0] == 10, "all is read")
    assert asked() == (10, 0, 10, 50, 0)
    assert shipper.finish().status == 1


# ---- --progress -------------------------------------------------------------------------------


class Screen:
    """A terminal of 200 columns, and what was shown there."""

    def __init__(self) -> None:
        self._master, self.terminal = os.openpty()
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        self.shown = ""

    def wait_for(self, pattern: str, deadline_s: float = DEADLINE_S) -> re.Match[str]:
        """Read until something like `pattern` is shown."""
        ends_at = time.monotonic() + deadline_s
        while not (found := re.search(pattern, self.shown)):
            left_s = ends_at - time.monotonic()
            readable, _, _ = select.select([self._master], [], [], max(left_s, 0))
            assert readable, f"not within {deadline_s} s: {pattern}: {self.shown!r}"
            self._read()
        return found

    def read_to_end(self) -> str:
        """All that was shown, when nobody can write any more."""
        os.close(self.terminal)
        self.terminal = -1
        try:
            while True:
                self._read()
        except OSError:  # EIO
            return self.shown

    def close(self) -> None:
        os.close(self._master)
        if self.terminal >= 0:
            os.close(self.terminal)

    def _read(self) -> None:
        self.shown += os.read(self._master, 65536).decode()


@pytest.fixture
def screen() -> Iterator[Screen]:
    screen = Screen()
    yield screen
    screen.close()


def test_progress_shows_lines_rate_and_what_waits(
    collector: Collector, ship: Ship, screen: Screen
) -> None:
    pytest.importorskip("tqdm")
    shipper = ship("-c", collector.endpoint, "--progress", stderr=screen.terminal)
    shipper.write(b"a\nb\nc\n")
    screen.wait_for(r"\b3 lines, [1-9]\d*/s, 0 waiting")
    shipper.write(b"d\n")
    screen.wait_for(r"\b4 lines, \d+/s, 0 waiting")
    assert "%" not in screen.shown, "there is no share of an endless stream"
    assert shipper.finish().processed == 4


def test_progress_shows_the_share_done_of_a_file(
    collect: Callable[..., Collector], ship: Ship, screen: Screen, tmp_path: Path
) -> None:
    pytest.importorskip("tqdm")
    count = 16_000
    path = tmp_path / "file"
    path.write_bytes(b"%01000d\n" % 0 * count)
    collector = collect(RCVHWM=1, RCVBUF=4096)
    with path.open("rb") as file:
        shipper = ship(
            *("-c", collector.endpoint, "--progress"), stdin=file, stderr=screen.terminal
        )
        share = screen.wait_for(r" ([1-9]\d?)%.* (\d+) lines, \d+/s, [1-9]\d* waiting")
        collector.receive(count)
    assert abs(int(share[1]) - 100 * int(share[2]) / count) < 10
    assert shipper.finish().processed == count


def test_the_last_thing_progress_shows_is_the_end_and_the_summary_is_below_it(
    collector: Collector, ship: Ship, screen: Screen
) -> None:
    pytest.importorskip("tqdm")
    terminal = {"stdout": screen.terminal, "stderr": screen.terminal}
    shipper = ship("-c", collector.endpoint, "--progress", **terminal)
    shipper.write(b"x\n")
    screen.wait_for("1 lines")
    shipper.write(b"x\n")
    shipper.finish()
    before, summary, after = screen.read_to_end().partition("Processed 2 messages")
    assert summary
    assert before.endswith("\n")
    assert "2 lines, " in before.rstrip().rpartition("\r")[2]
    assert "lines, " not in after


def test_progress_shows_nothing_where_stderr_is_no_terminal(
    collector: Collector, ship: Ship
) -> None:
    result = ship("-c", collector.endpoint, "--progress").finish(b"x\n")
    assert (result.status, result.processed, result.stderr) == (0, 1, "")


def test_progress_without_tqdm_says_so_and_leaves_stdin_as_it_was(
    ship: Ship, screen: Screen, tmp_path: Path
) -> None:
    without = customized(tmp_path, "import sys; sys.modules['tqdm'] = None")
    reader, writer = os.pipe()
    before = fcntl.fcntl(reader, fcntl.F_GETFL)
    try:
        shipper = ship("--progress", stdin=reader, stderr=screen.terminal, env=without)
        result = shipper.finish()
        after = fcntl.fcntl(reader, fcntl.F_GETFL)
    finally:
        os.close(reader)
        os.close(writer)
    assert (result.status, result.stdout) == (2, "")
    assert "tqdm" in one_line(screen.read_to_end().replace("\r\n", "\n"))
    assert after == before

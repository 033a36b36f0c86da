"""The command line of zmqpush-watermark.py, and what it prints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.push.command_line import one_line, refused
from tests.support.aliases import Ship

PROGRAM = "zmqpush-watermark.py"


def watermarks(ship: Ship, *arguments: str, **variables: str) -> list[str]:
    shipper = ship(*arguments, program=PROGRAM, env={**os.environ, **variables})
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
    assert named in refused(ship(*arguments, program=PROGRAM).finish(), PROGRAM)


def test_watermarks_that_cannot_be_written_are_one_line_and_no_success(ship: Ship) -> None:
    with open("/dev/full", "wb") as full:
        result = ship(program=PROGRAM, stdout=full).finish()
    assert result.status == 1
    assert "No space left" in one_line(result.stderr, PROGRAM)

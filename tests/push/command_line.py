"""The options alone, read in this process, and what a program says of bad use."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest

import zmqpush
from tests.support.programs import Result

Capture = pytest.CaptureFixture[str]


def one_line(stderr: str, program: str = "zmqpush.py") -> str:
    """What `program` said in one line, and no more."""
    said = re.fullmatch(rf"{re.escape(program)}: (.+)\n", stderr)
    assert said, stderr
    return said[1]


def refused(result: Result, program: str = "zmqpush.py") -> str:
    """The one line with which the program has ended."""
    assert (result.status, result.stdout) == (2, "")
    return one_line(result.stderr, program)


def parse(*arguments: str) -> dict[str, Any]:
    return vars(zmqpush.parse_options(zmqpush.build_parser("test"), list(arguments)))


def refused_here(arguments: list[str], capfd: Capture) -> str:
    """The same, of the options alone, in this process."""
    with pytest.raises(SystemExit) as ending:
        parse(*arguments)
    assert ending.value.code == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    return one_line(stderr, os.path.basename(sys.argv[0]))

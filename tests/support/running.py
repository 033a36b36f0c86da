"""Running a program to its end, and a Python that is not quite the one that runs the tests."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.programs import Result
from tests.support.waiting import DEADLINE_S

SHIPPERS = ["zmqpush.py", "zmqpush-watermark.py"]  # have the same options
PROGRAMS = [*SHIPPERS, "zmqpull.py"]


def run_program(command: list[str], data: bytes = b"", **popen: Any) -> Result:
    """Run `command` with `data` as its standard input; its output and errors are captured."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **{**pipes, **popen}) as process:
        try:
            stdout, stderr = process.communicate(data, timeout=DEADLINE_S)
        finally:
            process.kill()
    return Result(process.returncode, stdout, stderr, process.pid)


def python_by(directory: Path, command: str) -> str:
    """A program that runs Python by way of `command`, in the same process."""
    path = directory / "python"
    path.write_text(f'#!/bin/sh\nexec {command} {shlex.quote(sys.executable)} "$@"\n')
    path.chmod(0o755)
    return str(path)


def customized(directory: Path, code: str) -> dict[str, str]:
    """The environment of a Python that runs `code` as it starts."""
    (directory / "sitecustomize.py").write_text(code, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(directory)}

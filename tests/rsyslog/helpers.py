"""A rsyslogd that runs zmqpush.py as a plain program.

It also writes each line, after omprog has taken it, into a file: what a program was given.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.rsyslog import TEMPLATE, Rsyslogd, and_more, install_program
from tests.support.waiting import wait_until

# The first description's. It can pass no arguments: they come through the environment.
LEGACY = """\
$ModLoad            omprog
$ActionOMProgBinary {program}
*.*                 :omprog:;RSYSLOG_SyslogProtocol23Format
"""
MODERN = """\
module(load="omprog")
action(type="omprog" binary="{program} --connect {endpoint}{arguments}"
       template="RSYSLOG_SyslogProtocol23Format" output="{output}" {parameters})
"""
STYLES = pytest.mark.parametrize("style", [LEGACY, MODERN], ids=["legacy", "modern"])
BURST = 3000  # messages: more than a pipe holds


class Logger(Rsyslogd):
    """A rsyslogd that runs zmqpush.py for every message, connected to `endpoint`."""

    def __init__(
        self,
        folder: Path,
        style: str,
        endpoint: str,
        *,
        arguments: str = "",
        parameters: str = "",
        before: str = "",
    ) -> None:
        folder.mkdir()
        self.output = folder / "output"
        self._given = folder / "given"
        action = style.format(
            program=install_program(folder),
            endpoint=endpoint,
            output=self.output,
            arguments=and_more(arguments),
            parameters=parameters,
        )
        witness = f'action(type="omfile" file="{self._given}" template="{TEMPLATE}")\n'
        super().__init__(folder, before + action + witness, ZMQPUSH_CONNECT=endpoint)

    def log_numbers(self, numbers: range) -> None:
        """Log a message for each number; returns when rsyslogd has taken them."""
        self.log(*(b"<13>unit: number %d" % number for number in numbers))

    def given(self) -> list[bytes]:
        """The lines that the program was given."""
        return self._given.read_bytes().split(b"\n")[:-1] if self._given.exists() else []

    def counters(self) -> str:
        """What zmqpush.py says on SIGUSR1."""
        before = len(self.output.read_bytes()) if self.output.exists() else 0
        os.kill(self.program(), signal.SIGUSR1)

        def answer() -> str:
            said = self.output.read_text()[before:] if self.output.exists() else ""
            return said if said.endswith("\n") else ""

        return str(wait_until(answer, "zmqpush.py tells its counters"))


def numbers_of(events: list[bytes]) -> list[int]:
    """The numbers that were logged, in the order in which they came."""
    return [int(event.partition(b" number ")[2].partition(b'"')[0]) for event in events]

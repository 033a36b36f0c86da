"""A real rsyslogd that asks zmqpush.py --omprog for answers, and what it has logged."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.collector import strict_json
from tests.support.programs import without_state
from tests.support.rsyslog import TEMPLATE, Rsyslogd, and_more, install_program
from tests.support.waiting import DEADLINE_S, wait_until


def text_of(number: int) -> bytes:
    """What is logged for `number`; some have line ends inside."""
    return b"number %d;" % number + b"\n at line 2\n\n at line 4" * (number % 7 == 0)


OWN_QUEUE = 'queue.type="LinkedList" queue.size="200000" queue.timeoutEnqueue="600000"'


class Logger(Rsyslogd):
    """A rsyslogd that gives what `unit` logs to zmqpush.py --omprog, and waits for the answers.

    It also writes each line into a file: when it is there, the main queue has handed it over.
    """

    CONFIGURATION = """\
global(parser.escapeControlCharactersOnReceive="off" processInternalMessages="on")
main_queue(queue.type="LinkedList" queue.size="200000" queue.timeoutEnqueue="600000")
module(load="impstats" interval="1" format="json" log.syslog="off" log.file="{stats}")
module(load="omprog")
if $programname == "unit" then {{
  action(type="omprog" name="ship" template="{template}"
         binary="{program} --connect {endpoint} --omprog{arguments}"
         confirmMessages="on" output="{output}" reportFailures="on" {parameters}
         action.resumeRetryCount="-1" action.resumeInterval="1")
  action(type="omfile" template="{template}" file="{queued}")
}} else {{
  action(type="omfile" file="{reported}")
}}
"""

    def __init__(self, folder: Path, endpoint: str, arguments: str, parameters: str) -> None:
        folder.mkdir()
        self._output = folder / "output"
        self._queued = folder / "queued"
        self._reported = folder / "reported"
        self._stats = folder / "stats"
        super().__init__(
            folder,
            self.CONFIGURATION.format(
                template=TEMPLATE,
                program=install_program(folder),
                endpoint=endpoint,
                arguments=and_more(arguments),
                parameters=parameters,
                output=self._output,
                queued=self._queued,
                reported=self._reported,
                stats=self._stats,
            ),
        )

    def log_numbers(self, numbers: range) -> None:
        """Log a message for each number; returns when rsyslogd has taken them."""
        self.log(*(b"<13>unit: " + text_of(number) for number in numbers))

    def output(self) -> str:
        """What the programs have said on stderr."""
        return self._output.read_text() if self._output.exists() else ""

    def reported(self) -> str:
        """What rsyslogd itself had to log."""
        return self._reported.read_text() if self._reported.exists() else ""

    def count_queued(self) -> int:
        """How many messages have left the main queue."""
        return self._queued.read_bytes().count(b" unit - - - ") if self._queued.exists() else 0

    def wait_until_drained(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait until all queues are empty; rsyslogd tells that every second."""
        begin = self._stats.stat().st_size

        def is_drained() -> bool:
            assert not self.has_crashed()
            with open(self._stats, "rb") as file:
                file.seek(begin)
                whole_lines = file.read().split(b"\n")[:-1]
            told = [json.loads(line.partition(b": ")[2]) for line in whole_lines]
            size = {told["name"]: told["size"] for told in told if told["origin"] == "core.queue"}
            return "main Q" in size and not any(size.values())

        wait_until(is_drained, "rsyslogd's queues are empty", deadline_s)


def numbers_of(events: list[bytes]) -> list[int]:
    """The numbers that were logged, in the order in which they came; their texts are checked."""
    numbers = []
    for event in events:
        text = strict_json(event)["message"].partition(" unit - - -  ")[2].encode()
        numbers.append(int(re.match(rb"number (\d+);", text)[1]))  # type: ignore[index]
        assert text == text_of(numbers[-1])
    return numbers


def summaries(said: str) -> dict[int, int]:
    """What the programs have sent in all, by pid; they have said nothing else."""
    lines = without_state(said).splitlines()
    pattern = r"Processed (\d+) messages in \d+\.\d{4}ms\. Tagged with @pid:(\d+)"
    matches = [re.fullmatch(pattern, line) for line in lines]
    assert all(matches), said
    return {int(match[2]): int(match[1]) for match in matches if match}

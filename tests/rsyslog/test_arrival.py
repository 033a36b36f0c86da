"""What rsyslog logs arrives, as it is, at a receiver that is not ours.

Both ends are real: rsyslogd logs to zmqpush.py with omprog, and a second rsyslogd collects with
imczmq.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

from tests.rsyslog.helpers import BURST, MODERN, STYLES, Logger, numbers_of
from tests.support.arrived import pids_of
from tests.support.collector import strict_json
from tests.support.rsyslog import Receiver
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long


# ---- what arrives -----------------------------------------------------------------------------

RFC5424 = re.compile(
    r"<(?P<pri>\d+)>1 (?P<timestamp>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d))"
    r" (?P<host>\S+) (?P<app>\S+) (?P<procid>\S+) (?P<msgid>\S+) (?P<data>-) (?P<msg>.*)"
)


def lines_of(events: list[bytes]) -> list[bytes]:
    """The syslog lines that the events carry."""
    return [strict_json(event)["message"].encode() for event in events]


@STYLES
def test_every_facility_and_severity_arrives_as_an_rfc5424_line(
    style: str, logger: Callable[..., Logger], receiver: Receiver
) -> None:
    receiver.start()
    rsyslogd = logger(style, receiver)
    every_pri = range(24 * 8)
    rsyslogd.log(*(b"<%d>unit[7]: number %d" % (pri, pri) for pri in every_pri))
    events = receiver.wait_for(len(every_pri))
    assert {strict_json(event)["type"] for event in events} == {"syslog"}
    assert pids_of(events) == {rsyslogd.program()}
    assert lines_of(events) == rsyslogd.given()
    for pri, line in zip(every_pri, lines_of(events)):
        parts = RFC5424.fullmatch(line.decode())
        assert parts, line
        assert (parts["pri"], parts["app"], parts["procid"]) == (str(pri), "unit", "7")
        assert (parts["msgid"], parts["msg"]) == ("-", f" number {pri}")


def test_text_arrives_intact(logger: Callable[..., Logger], receiver: Receiver) -> None:
    texts = [
        b'say "hi" \\ and \\n',
        b"tab\tescape\x1b[0m bell\x07 delete\x7f",
        "é € 😀 line\u2028separator".encode(),
        b"not UTF-8: \xff\xc3( \xed\xa0\x80",
        b'{"message":"a line that is JSON"}',
        b"  blanks before and after  ",
        b"long " * 1500,
        b"",
    ]
    receiver.start()
    escapes_nothing = 'global(parser.escapeControlCharactersOnReceive="off")\n'
    rsyslogd = logger(MODERN, receiver, before=escapes_nothing)
    rsyslogd.log(*(b"<13>unit: " + text for text in texts))
    lines = lines_of(receiver.wait_for(len(texts)))
    given = [line.decode(errors="backslashreplace").encode() for line in rsyslogd.given()]
    assert lines == given
    for text, line in zip(texts, lines):
        assert line.endswith(text.decode(errors="backslashreplace").encode())


def test_arguments_reach_the_program(logger: Callable[..., Logger], receiver: Receiver) -> None:
    receiver.start()
    rsyslogd = logger(MODERN, receiver, arguments="mail --field site=north --field floor=2")
    rsyslogd.log(b"<22>unit: x")
    event = strict_json(receiver.wait_for(1)[0])
    assert (event["type"], event["site"], event["floor"]) == ("mail", "north", "2")


# ---- what is said -----------------------------------------------------------------------------


def test_stderr_and_the_summary_are_in_the_output_file(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    receiver.start()
    rsyslogd = logger(MODERN, receiver)
    rsyslogd.log_numbers(range(5))
    receiver.wait_for(5)
    assert "5 messages read, 5 handed over, 0 waiting" in rsyslogd.counters()
    pid = rsyslogd.program()
    rsyslogd.terminate()
    summary = rsyslogd.output.read_text().splitlines()[-1]
    assert re.fullmatch(rf"Processed 5 messages in [\d.]+ms\. Tagged with @pid:{pid}", summary)


def test_what_is_wrong_with_the_arguments_is_in_the_output_file(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    rsyslogd = logger(MODERN, receiver, arguments="--batch none")
    rsyslogd.log_numbers(range(1))
    wait_until(
        lambda: rsyslogd.output.exists() and rsyslogd.output.read_bytes().endswith(b"\n"),
        "a line in the output file",
    )
    assert rsyslogd.output.read_text().startswith("zmqpush.py: argument --batch: 'none' is not")


def test_log_rotation_ends_nothing(logger: Callable[..., Logger], receiver: Receiver) -> None:
    receiver.start()
    rsyslogd = logger(MODERN, receiver, parameters='hup.signal="HUP"')
    rsyslogd.log_numbers(range(100))
    receiver.wait_for(100)
    first = rsyslogd.counters()
    rotated = rsyslogd.output.rename(rsyslogd.folder / "output.1")
    rsyslogd.signal_rsyslogd(signal.SIGHUP)

    def counters_in_the_new_file() -> bool:
        os.kill(rsyslogd.program(), signal.SIGUSR1)
        return rsyslogd.output.exists()

    wait_until(counters_in_the_new_file, "rsyslogd has opened a new output file")
    rsyslogd.log_numbers(range(100, 200))
    events = receiver.wait_for(200)
    assert numbers_of(events) == list(range(200))
    assert pids_of(events) == {rsyslogd.program()}
    assert rotated.read_text().startswith(first)


# ---- the collector comes and goes -------------------------------------------------------------


def test_what_is_logged_while_the_collector_is_away_arrives_when_it_is_back(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    rsyslogd = logger(MODERN, receiver)
    rsyslogd.log_numbers(range(BURST))
    wait_until(lambda: len(rsyslogd.given()) == BURST, "rsyslogd is not held up")
    receiver.start()
    assert numbers_of(receiver.wait_for(BURST)) == list(range(BURST))

    receiver.kill()
    wait_until(lambda: "0 connected" in rsyslogd.counters(), "zmqpush.py has noticed")
    rsyslogd.log_numbers(range(BURST, 2 * BURST))
    wait_until(lambda: len(rsyslogd.given()) == 2 * BURST, "rsyslogd is not held up")
    receiver.start()
    events = receiver.wait_for(2 * BURST)
    assert numbers_of(events) == list(range(2 * BURST))
    assert pids_of(events) == {rsyslogd.program()}


def test_a_collector_that_comes_when_rsyslogd_is_gone_gets_everything(
    logger: Callable[..., Logger], receiver: Receiver
) -> None:
    rsyslogd = logger(MODERN, receiver, parameters='closeTimeout="50"')
    rsyslogd.log_numbers(range(BURST))
    rsyslogd.terminate()
    assert "did not terminate within timeout" in rsyslogd.said()
    receiver.start()
    assert numbers_of(receiver.wait_for(BURST)) == list(range(BURST))
    rsyslogd.wait_for_programs()

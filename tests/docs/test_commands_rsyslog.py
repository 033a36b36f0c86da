"""rsyslogd does with the configurations of the documents what they say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.pages import Block, block
from tests.docs.sandbox import PRINTER, RSYSLOGD, Sandbox, runs, waits_for
from tests.support.collector import strict_json

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not shutil.which("rsyslogd"), reason="rsyslogd is not installed"),
]

PAGE = "docs/rsyslog.md"
MODERN = block(PAGE, "The short way", language="rsyslog")
LEGACY = block(PAGE, "The old syntax", language="rsyslog")
NOTHING_LOST = block(PAGE, "With nothing lost", language="rsyslog")
RECEIVER = block(PAGE, "Receiving with rsyslog", language="rsyslog")


def check_ships(folder: Path, configuration: Block) -> None:
    """A message goes to the default endpoint, through the program where it was installed."""
    sandbox = Sandbox(folder)
    source = f'''module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{folder}/log")
'''
    sandbox.write("rsyslog.conf", configuration, before=source)
    script = 'until [ -S log ]; do sleep 0.01; done; logger -u "$PWD/log" -t app hello'
    sandbox.run(script + waits_for(1), PRINTER + RSYSLOGD)
    event = strict_json(sandbox.arrived()[0])
    assert event["type"] == "syslog"
    assert re.fullmatch(r"<\d+>1 \S+ \S+ app - - - +hello", event["message"]), event


@runs(MODERN)
def test_rsyslog_ships(tmp_path: Path) -> None:
    check_ships(tmp_path, MODERN)


@runs(LEGACY)
def test_rsyslog_ships_with_the_old_syntax(tmp_path: Path) -> None:
    check_ships(tmp_path, LEGACY)


@runs(NOTHING_LOST)
def test_rsyslog_ships_and_waits_for_confirmation(tmp_path: Path) -> None:
    check_ships(tmp_path, NOTHING_LOST)


@runs(RECEIVER)
def test_rsyslog_receives(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.write("rsyslog.conf", RECEIVER)
    script = "echo test | zmqpush.py -q; until grep . /var/log/collected.json; do sleep 0.01; done"
    event = strict_json(sandbox.run(script + " 2>&-", RSYSLOGD).encode())
    assert event == {"message": "test", "type": "syslog", "@pid": event["@pid"]}

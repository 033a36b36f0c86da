"""rsyslogd does with the configurations of the documents what they say."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

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
FIELDS = block(PAGE, "Fields instead of one opaque line", language="rsyslog")
GROWING = block(PAGE, "A file that grows", language="rsyslog")
JOURNAL = block(PAGE, "The journal, without rsyslog")
RECEIVER = block(PAGE, "Receiving with rsyslog", language="rsyslog")

JOURNAL_REMOTE = "/lib/systemd/systemd-journal-remote"


def logged_hello(folder: Path, configuration: Block) -> dict[str, Any]:
    """The event that a message becomes, through the program where it was installed."""
    sandbox = Sandbox(folder)
    source = f'''module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{folder}/log")
'''
    sandbox.write("rsyslog.conf", configuration, before=source)
    script = 'until [ -S log ]; do sleep 0.01; done; logger -u "$PWD/log" -t app hello'
    sandbox.run(script + waits_for(1), PRINTER + RSYSLOGD)
    event: dict[str, Any] = strict_json(sandbox.arrived()[0])
    return event


def check_ships(folder: Path, configuration: Block) -> None:
    """A message goes to the default endpoint, as one line."""
    event = logged_hello(folder, configuration)
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


@runs(FIELDS)
def test_rsyslog_ships_fields(tmp_path: Path) -> None:
    event = logged_hello(tmp_path, FIELDS)
    stamp, host, pid = (event.pop(name) for name in ("@timestamp", "host", "@pid"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+[+-]\d\d:\d\d", stamp)
    assert host
    assert pid
    says = {"program": "app", "severity": "notice", "message": " hello", "type": "syslog"}
    assert event == says


@runs(GROWING)
def test_a_file_that_grows_is_shipped_from_where_it_was_left(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.write("rsyslog.conf", GROWING)
    script = f"""
    printf 'one\\ntwo\\n' >>/var/log/app.log
    {waits_for(2)}
    kill $rsyslogd; tail --pid=$rsyslogd -f /dev/null
    printf 'three\\n' >>/var/log/app.log
    rsyslogd -n -f "$PWD/rsyslog.conf" -i "$PWD/pid" & rsyslogd=$!
    disown
    {waits_for(3)}"""
    sandbox.run(script, PRINTER + RSYSLOGD)
    messages = [strict_json(event)["message"] for event in sandbox.arrived()]
    assert messages == ["one", "two", "three"]


@runs(JOURNAL)
def test_the_journal_is_shipped(tmp_path: Path) -> None:
    """Into a journal that systemd's own program has written, where journalctl looks for it."""
    if not Path(JOURNAL_REMOTE).exists():
        pytest.skip("systemd-journal-remote is not installed")
    machine = Path("/etc/machine-id").read_text().strip()
    fields = {
        "__REALTIME_TIMESTAMP": time.time_ns() // 1000,
        "_BOOT_ID": Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""),
        "_MACHINE_ID": machine,
        "PRIORITY": 6,
        "SYSLOG_IDENTIFIER": "app",
        "MESSAGE": "hello",
    }
    (tmp_path / "entry").write_text("".join(f"{k}={v}\n" for k, v in fields.items()) + "\n")
    sandbox = Sandbox(tmp_path)
    journal = f"/var/log/journal/{machine}"
    sandbox.run(
        f"""
        mount -t tmpfs tmpfs /var/log
        mkdir -p {journal}
        {JOURNAL_REMOTE} --output={journal}/system.journal entry 2>/dev/null
        {JOURNAL.commands[0]} & shipping=$!
        {waits_for(1)}
        kill $(jobs -p)"""
    )
    event = strict_json(sandbox.arrived()[0])
    assert (event["MESSAGE"], event["SYSLOG_IDENTIFIER"]) == ("hello", "app")
    assert event["type"] == "journal"


@runs(RECEIVER)
def test_rsyslog_receives(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.write("rsyslog.conf", RECEIVER)
    script = "echo test | zmqpush.py -q; until grep . /var/log/collected.json; do sleep 0.01; done"
    event = strict_json(sandbox.run(script + " 2>&-", RSYSLOGD).encode())
    assert event == {"message": "test", "type": "syslog", "@pid": event["@pid"]}

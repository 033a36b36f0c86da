"""docs/guarantees.md keeps its rows and its figures, and the README says nothing else.

What each row promises is tested where the matter is; here, that no edit loses a row, a figure or a
condition.
"""

from __future__ import annotations

import re

from tests.docs.pages import read, section, tables

PAGE = "docs/guarantees.md"
#: For each row the words that it must have, in any order: in the case, and in what is lost.
ROWS: list[tuple[str, list[str]]] = [
    ("no collector yet, stopped, slow, cut off", ["nothing", "memory", "`--queue-limit`", "order"]),
    ("stopped, cut off, comes back", ["nothing"]),
    (
        "a collector is killed",
        ["received and not handled", "kernel's buffers", "8 kB", "`--sndhwm`", "next", "several"],
    ),
    ("... with `--ack`", ["nothing", "not acknowledged", "next collector"]),
    ("shipper is killed, -9", ["everything that waits in it"]),
    (
        "... with `--spool`",
        ["in the pipe", "20 ms", "journaled", "next start", "`--sndhwm`", "8 kB", "64 kB"],
    ),
    ("network is away, `--spool`", ["nothing", "not acknowledged", "again"]),
    ("... with `--omprog`", ["`--sndhwm`", "rsyslog keeps", "`--spool`", "nothing"]),
    ("... with `--ack`, `--spool`", ["nothing", "acknowledged", "again"]),
    ("power, `--spool`", ["nothing", "already been synced", "`OK`", "last chunk"]),
    ("collector's machine, power, `--ack`", ["nothing", "files", "SQLite", "synced", "Redis"]),
    ("Ctrl-C, SIGINT", ["nothing", "what the pipe holds", "2 s"]),
    ("SIGTERM", ["the same", "reading", "end of input", "2 s"]),
    (
        "disk, spool, full, cannot be written",
        ["nothing", "stderr", "8 MB", "`--omprog`", "rsyslog"],
    ),
    ("directory of the spool, removed", ["nothing", "again", "next line"]),
    ("file of the spool, damaged", ["behind the damage", "`.damaged`", "before", "given up"]),
    ("rsyslog stops", ["nothing", "`closeTimeout`", "5 s"]),
    ("peer, not a PULL socket", ["nothing", "every 2 s", "HTTP", "SSH", "31 s", "other endpoints"]),
    ("refuses our key", ["`--sndhwm`", "nothing more", "`--ack`"]),
    ("breaks the protocol", ["libzmq had queued", "restart"]),
    ("longer than `--max-line`", ["nothing", "pieces"]),
    ("overruns `/dev/kmsg`", ["overwrote", "reading goes on"]),
    ("not UTF-8", [r"`\xNN`", "valid"]),
]
#: 40 kills: what a soak test printed.
COUNTED = [
    ["", "plain", "`--spool`", "`--ack`", "`--ack --spool`"],
    ["collectors killed: lost", "284,149", "101,805", "**0**", "**0**"],
    [
        "shippers killed: lost of what they had read",
        "504,210",
        "44,573, not journaled yet",
        "411,531",
        "47,196, not journaled yet",
    ],
    ["shippers killed: lost of what was journaled", "", "**0**", "", "**0**"],
    ["sent again", "0", "99,558", "**0**", "**0**"],
]
#: What stands below the tables.
BELOW = ["256 kB", "older than 4", "31 s", "15 minutes", "8 MB", "40,000 lines", "half a second"]


def test_each_row_says_what_it_said() -> None:
    table = tables(section(PAGE, "What is lost, and when"))[0]
    assert len(table[1:]) == len(ROWS)
    for (case, lost), (cases, losses) in zip(table[1:], ROWS):
        assert [words for words in cases.split(", ") if words not in case] == []
        assert [words for words in losses if words not in lost] == [], case


def test_the_numbers_are_those_that_were_counted() -> None:
    assert tables(section(PAGE, "In numbers")) == [COUNTED]
    text = re.sub(r"\s+", " ", read(PAGE))
    assert [words for words in BELOW if words not in text] == []


def test_every_exit_status_and_signal_is_there() -> None:
    (statuses,) = tables(section(PAGE, "Exit statuses"))
    assert [row[0] for row in statuses[1:]] == ["0", "1", "2"]
    (signals,) = tables(section(PAGE, "Signals"))
    first_words = {row[0].split()[0] for row in signals[1:]}
    assert first_words == {"SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "SIGUSR1"}


def test_the_readme_has_eight_of_the_rows() -> None:
    (short,) = tables(section("README.md", "What you can rely on"))
    cases = iter([case for case, _ in tables(section(PAGE, "What is lost, and when"))[0]])
    assert len(short[1:]) == 8
    assert [case for case, _ in short if case not in cases] == []  # in that order

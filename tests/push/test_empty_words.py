"""Empty words on the command line: rsyslog 8.2608 passes one for a blank at the end of `binary`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import zmqpull
import zmqpush
from tests.support.collector import Collector
from tests.support.programs import Shipper


def push(*words: str) -> dict[str, Any]:
    return vars(zmqpush.parse_options(zmqpush.build_parser(""), list(words)))


def pull(*words: str) -> dict[str, Any]:
    return vars(zmqpull.parse_options(zmqpull.build_parser(""), list(words)))


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ([""], []),
        (["", ""], []),
        (["mytype", ""], ["mytype"]),
        (["", "mytype"], ["mytype"]),
        (["", "mytype", "", ""], ["mytype"]),
        (["-q", "", "mytype"], ["-q", "mytype"]),
        (["--", ""], []),
        (["--", "", "-c"], ["--", "-c"]),
        (["--batch", "5", ""], ["--batch", "5"]),
        (["--batch=5", "", "mytype"], ["--batch=5", "mytype"]),
        (["-fa=b", "", "mytype"], ["-fa=b", "mytype"]),
        (["-qfa=b", ""], ["-qfa=b"]),
        (["-f", "a=b", ""], ["-f", "a=b"]),
        (["mytype  "], ["mytype"]),
        (["mytype", " "], ["mytype"]),
        (["--omprog "], ["--omprog"]),
        (["-q "], ["-q"]),
        (["--batch", "5 "], ["--batch", "5"]),
        (["--format", "raw "], ["--format", "raw"]),
        (["--spool", "/var/spool/x "], ["--spool", "/var/spool/x"]),
        (["-c", "tcp://a:1 "], ["-c", "tcp://a:1"]),
    ],
)
def test_an_empty_word_in_place_of_a_positional_argument_is_ignored(
    words: list[str], meant: list[str]
) -> None:
    assert push(*words) == push(*meant)


def test_an_empty_value_of_an_option_stays_what_it_is() -> None:
    transactions = ["--omprog", "--omprog-transactions"]
    assert push("--spool", "")["spool"] == ""
    assert push("--spool=")["spool"] == ""
    with pytest.raises(SystemExit):
        push(*transactions, "--omprog-begin", "")
    with pytest.raises(SystemExit):
        push("-qc", "")
    assert pull("--key", "")["key"] == ""


def test_blanks_at_the_end_of_any_text_belong_to_it() -> None:
    assert push("-f", "a=b ")["field"] == [("a", "b ")]
    assert push("--field=a=b ")["field"] == [("a", "b ")]
    assert push("-fa=b ")["field"] == [("a", "b ")]
    assert push("my type ", "-q")["logtype"] == "my type "  # not at the end: it was meant


def test_a_value_that_looks_like_an_option_does_not_make_the_next_word_one() -> None:
    with pytest.raises(SystemExit):
        push("--omprog-begin", "--batch", "", "mytype")


@pytest.mark.parametrize("words", [[""], ["-q", "", ""]])
def test_the_collector_ignores_empty_words_too(words: list[str]) -> None:
    assert pull(*words) == pull(*filter(None, words))


def test_a_shipper_that_is_given_an_empty_word_ships(
    collector: Collector, ship: Callable[..., Shipper]
) -> None:
    result = ship("mytype", "-c", collector.endpoint, "").finish(b"x\n")
    assert (result.status, result.processed, result.stderr) == (0, 1, "")
    assert [event["type"] for event in collector.events(1)] == ["mytype"]

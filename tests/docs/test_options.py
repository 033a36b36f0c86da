"""docs/options.md lists what the parsers have, with variables and defaults; its matrix is true."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass
from typing import Any

import pytest

import zmqpull
import zmqpush
from tests.docs.pages import section, tables

PAGE = "docs/options.md"
#: A value that is no default, by metavar.
SAMPLES = {
    "LOGTYPE": "app",
    "ENDPOINT": "tcp://127.0.0.1:1",
    "NAME=VALUE": "a=b",
    "FORMAT": "raw",
    "N": "7",
    "SIZE": "7k",
    "SECONDS": "7",
    "DIR": "there",
    "FILE": "there",
    "TEXT": "a text",
    "URL": "redis://there",
    "NAME": "there",
    "KEY": "there",
}
MODULES = {"zmqpush.py": zmqpush, "zmqpull.py": zmqpull}


@dataclass
class Row:
    """A row of a table of options."""

    names: list[str]
    metavar: str
    variable: str
    default: str


def rows(program: str) -> list[Row]:
    """All rows of all tables of a program."""
    found = []
    for table in tables(section(PAGE, program)):
        if table[0][:2] == ["option", "variable"]:
            found += [read_row(*row) for row in table[1:]]
    return found


def read_row(option: str, variable: str, default: str, meaning: str) -> Row:
    assert meaning
    words = [word.split(" ") for word in re.findall(r"`(.*?)`", option)]
    metavar = words[-1][1] if len(words[-1]) > 1 else ""
    names = [word[0] for word in words if word[0].startswith("-")]
    if not names:
        metavar = words[0][0]
    return Row(names, metavar, variable.strip("`"), default.strip("`"))


def rows_to_check(program: str) -> list[Row]:
    """Those that the parser should have, and that have a variable."""
    return [row for row in rows(program) if row.variable]


def parser_of(program: str) -> Any:
    return MODULES[program].build_parser("")


def actions(program: str) -> list[argparse.Action]:
    found = parser_of(program)._actions
    assert all(isinstance(action, argparse.Action) for action in found)
    return list(found)


@pytest.mark.parametrize("program", MODULES)
def test_every_option_is_listed_once_with_its_metavar(program: str) -> None:
    listed = {tuple(row.names): row.metavar for row in rows(program)}
    assert len(listed) == len(rows(program))
    known = {}
    for action in actions(program):
        metavar = "FORMAT" if action.choices else str(action.metavar or "")
        known[tuple(action.option_strings)] = metavar
    assert listed == known


@pytest.mark.parametrize("program", MODULES)
def test_every_variable_sets_its_option(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = vars(parser_of(program).parse([]))
    assert len(rows_to_check(program)) == len(before)
    for row in rows_to_check(program):
        with monkeypatch.context() as context:
            context.setenv(row.variable, SAMPLES[row.metavar] if row.metavar else "1")
            after = vars(parser_of(program).parse([]))
        changed = [name for name in before if after[name] != before[name]]
        assert len(changed) == 1, row
        long_name = row.names[-1].lstrip("-").replace("-", "_") if row.names else "logtype"
        assert changed == [long_name]


@pytest.mark.parametrize("program", MODULES)
def test_every_default_is_that_of_the_parser(program: str) -> None:
    parser = parser_of(program)
    defaults = vars(MODULES[program].parse_options(parser, []))
    by_names = {tuple(action.option_strings): action for action in actions(program)}
    for row in rows_to_check(program):
        action = by_names[tuple(row.names)]
        default = defaults[action.dest]
        if row.default in ("off", "none"):
            assert not default, row
            continue
        read = action.type if callable(action.type) else str
        shown = read(row.default)
        assert default in (shown, [shown]), row


# ---- what goes with what ----------------------------------------------------------------------


def words(option: str) -> list[str]:
    """What to type for an option of the matrix."""
    said = option.strip("`")
    port = "1" if said.startswith("--connect") else "2"
    return shlex.split(said.replace("ENDPOINT", f"tcp://127.0.0.1:{port}"))


def is_accepted(arguments: list[str]) -> bool:
    if "--curve-key" in arguments:  # whoever binds, and whoever connects, needs more than that
        others = "--curve-clients any" if "--bind" in arguments else "--curve-server-key KEY"
        arguments = [*arguments, *others.split()]
    try:
        zmqpush.parse_options(zmqpush.build_parser(""), arguments)
    except SystemExit:
        return False
    return True


def test_the_matrix_is_true() -> None:
    matrix, _ = tables(section(PAGE, "What goes with what"))
    columns = [words(option) for option in matrix[0][1:]]
    assert all(map(is_accepted, columns))
    wrong = []
    for option, *cells in matrix[1:]:
        row = words(option)
        assert is_accepted(row)
        for column, cell in zip(columns, cells):
            assert cell in ("yes", "no", "no effect")
            together = row if row == column else [*row, *column]
            if is_accepted(together) != (cell != "no"):
                wrong.append((shlex.join(together), cell))
    assert wrong == []


def test_what_needs_another_option_is_refused_alone() -> None:
    _, needs = tables(section(PAGE, "What goes with what"))
    for option, needed in needs[1:]:
        assert not is_accepted(words(option))
        assert is_accepted([*words(option), *words(needed)])

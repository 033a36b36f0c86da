"""Empty words of a command line, which rsyslog 8.2608 passes for a blank at the end of `binary`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

Actions = Mapping[str, argparse.Action]  # by `-c`, `--connect`


def without_empty(words: list[str], actions: Actions) -> list[str]:
    """`words` without the empty ones that would be positional arguments.

    An option's empty value stays what it is.
    """
    kept: list[str] = []
    is_value = only_positional = False
    for word in words:
        if word or is_value:
            kept.append(word)
        is_value = not (is_value or only_positional) and takes_next(word, actions)
        only_positional = only_positional or word == "--"
    return kept


def takes_next(word: str, actions: Actions) -> bool:
    """Whether the word after `word` is the value of an option: `--batch`, `-c` or `-qc`."""
    if word in actions:
        return actions[word].nargs is None
    if word.startswith("--") or not word.startswith("-"):
        return False
    for at, letter in enumerate(word[1:], 2):
        action = actions.get(f"-{letter}")
        if action is None or action.nargs is None:
            return action is not None and at == len(word)
    return False

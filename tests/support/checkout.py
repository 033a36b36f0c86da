"""Copies of the checkout, to be installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.programs import TOP
from tests.support.running import PROGRAMS


def copy_programs(folder: Path) -> None:
    """Copy the programs and their parts, as one does who installs by hand."""
    for name in PROGRAMS:
        shutil.copy2(TOP / name, folder)
    copy_folder("zmqlines", folder)


def make_checkout(folder: Path) -> None:
    """Copy what pip needs into a new folder."""
    folder.mkdir(parents=True)
    copy_programs(folder)
    copy_folder("packaging", folder)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(TOP / name, folder)


def copy_folder(name: str, folder: Path) -> None:
    """Copy one of the checkout's folders, without what Python keeps there."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TOP / name, folder / name, symlinks=True, ignore=ignored)


def make_wrong_parts(folder: Path) -> None:
    """Make a folder zmqlines in `folder` that nobody may load."""
    wrong = folder / "zmqlines"
    wrong.mkdir()
    for name in ("__init__", "json_format", "spool", "omprog", "pull", "watermark"):
        (wrong / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")

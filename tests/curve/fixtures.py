"""Keys for the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.keyring import Keyring


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keyring")

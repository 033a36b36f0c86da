"""A file of the spool by itself: its numbers, its id, its rows, and who holds it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.spool.helpers import names, sent_from
from tests.support.lines import lines
from zmqlines.finished import Finished
from zmqlines.spool_file import SpoolFile


def finished(*texts: bytes) -> Finished:
    return Finished(b"\n".join(texts), len(texts), 1)


def loaded(file: SpoolFile) -> list[tuple[int, list[bytes]]]:
    """All that it loads, by number."""
    found = []
    while chunks := file.load():
        found += [(chunk.number, chunk.messages()) for chunk in chunks]
    return found


def number_of_next(file: SpoolFile, *texts: bytes) -> int:
    """Append them as one chunk; returns its number."""
    chunk = finished(*texts)
    file.append(chunk)
    return chunk.number


def identity(file: SpoolFile) -> Any:
    return file._db.execute("SELECT id FROM shipper").fetchall()


def adopted(path: str) -> SpoolFile:
    file = SpoolFile.adopt(path)
    assert file
    return file


def test_number_is_never_used_again(directory: Path) -> None:
    file = SpoolFile.create(str(directory))
    assert [number_of_next(file, b"x") for _ in range(3)] == [1, 2, 3]
    file.forget([1, 2, 3])
    file.let_go()
    file = adopted(file.path)
    assert number_of_next(file, b"x") == 4
    file.let_go()


def test_file_keeps_its_id_and_two_files_have_different_ones(directory: Path) -> None:
    files = [SpoolFile.create(str(directory)) for _ in range(2)]
    before = [identity(file) for file in files]
    for file in files:
        file.let_go()
    assert [identity(adopted(file.path)) for file in files] == before
    assert before[0] != before[1]


def test_chunks_before_a_damaged_one_are_loaded_first(directory: Path) -> None:
    file = SpoolFile.create(str(directory))
    for line in lines(5):
        file.append(finished(line))
    file._db.execute("UPDATE chunk SET text = CAST('noise' AS BLOB) WHERE number = 4")
    assert [chunk.number for chunk in file.load()] == [1, 2, 3]
    with pytest.raises(sqlite3.DatabaseError, match="chunk 4"):
        file.load()
    file.let_go()


@pytest.mark.parametrize(
    "assignment",
    ["events = 2", "batch = 9", "events = NULL", "batch = 'x'", "text = NULL", "text = 7",
     "text = 'a' || char(10) || 'b' || char(10) || 'c'", "crc = 1.5", "events = 1e300"],
)  # fmt: skip
def test_chunk_that_is_not_as_it_was_written_is_never_sent(
    assignment: str, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = SpoolFile.create(str(directory))
    file.append(finished(b"before"))
    file.append(finished(b"a", b"b", b"c"))
    file._db.executescript(
        "PRAGMA writable_schema = ON;"
        "UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'chunk';"
    )
    file.let_go()
    with contextlib.closing(sqlite3.connect(file.path)) as database, database:
        database.execute(f"UPDATE chunk SET {assignment} WHERE number = 2")
    assert sent_from(directory) == [b"before"]
    assert capfd.readouterr().err.count(" is damaged (") == 1
    assert names(directory) == [f"{Path(file.path).name}.damaged"]


def test_number_of_what_was_taken_back_is_used_again_for_there_must_be_no_gap(
    directory: Path,
) -> None:
    file = SpoolFile.create(str(directory))
    assert number_of_next(file, b"x") == 1
    refused = [finished(b"a"), finished(b"b")]
    for chunk in refused:
        file.append(chunk)
    file.take_back(refused)
    assert (file.events, number_of_next(file, b"y")) == (1, 2)
    assert loaded(file) == [(1, [b"x"]), (2, [b"y"])]
    file.let_go()


def test_chunks_behind_a_gap_keep_their_shipper_whatever_happens_to_those_before_it(
    directory: Path,
) -> None:
    file = SpoolFile.create(str(directory))
    for line in lines(9):
        file.append(finished(line))
    plain = file.shipper_of(1)
    file.forget([3, 6])
    file.let_go()
    file = adopted(file.path)
    before = [file.shipper_of(number) for number in (1, 2, 4, 5, 7, 8, 9)]
    assert before[0] == before[1] != before[2] == before[3] != plain
    assert before[4:] == [plain] * 3
    file.forget([1, 2, 4])
    file.let_go()
    file = adopted(file.path)
    assert [file.shipper_of(number) for number in (5, 7, 8, 9)] == before[3:]
    file.forget([5])
    file.let_go()
    file = adopted(file.path)
    assert [file.shipper_of(number) for number in (7, 8, 9)] == before[4:]
    file.let_go()


def test_file_that_moves_keeps_its_numbers_its_id_and_its_rows(directory: Path) -> None:
    file = SpoolFile.create(str(directory))
    for line in lines(5):
        file.append(finished(line, b""))
    file.forget([1, 2])
    assert [chunk.number for chunk in file.load(until=3)] == [3]
    before = identity(file)
    shutil.rmtree(directory)
    assert not file.is_in_place()
    file.move()
    assert file.is_in_place()
    assert identity(file) == before
    assert number_of_next(file, b"new") == 6
    kept = [(4, [b"00000003", b""]), (5, [b"00000004", b""]), (6, [b"new"])]
    assert loaded(file) == kept
    file.let_go()
    again = adopted(file.path)
    assert identity(again) == before
    assert loaded(again) == [(3, [b"00000002", b""]), *kept]
    again.let_go()


def test_process_that_is_killed_while_it_removes_a_file_leaves_nothing_for_ever(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    removed: list[str] = []
    really_unlink = os.unlink

    def unlink(path: str) -> None:
        if removed:
            raise Killed
        removed.append(path)
        really_unlink(path)

    file = SpoolFile.create(str(directory))
    file.append(finished(b"x"))
    file.forget([1])
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(os, "unlink", unlink)
        file.close()
    if not file.closed:
        file.let_go()
    assert removed
    assert sent_from(directory) == []
    assert names(directory) == []


@pytest.mark.parametrize("name", ["noise", "ab", ""])
def test_file_whose_id_is_damaged_is_put_aside(
    name: str, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = SpoolFile.create(str(directory))
    file.append(finished(b"x"))
    file._db.execute("UPDATE shipper SET id = ?", (name,))
    file.let_go()
    assert sent_from(directory) == []
    assert capfd.readouterr().err.count(" is damaged (") == 1
    assert names(directory) == [f"{Path(file.path).name}.damaged"]


def test_file_is_held_by_one_at_a_time(directory: Path) -> None:
    file = SpoolFile.create(str(directory))
    assert SpoolFile.adopt(file.path) is None
    file.let_go()
    adopted(file.path).let_go()


# ---- the order of the files, and whose they are -----------------------------------------------


def test_files_are_named_in_the_order_in_which_they_were_begun_whatever_the_clock_says(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for year in (2030, 2020, 2025):
        monkeypatch.setattr("time.time_ns", lambda year=year: year * 31_557_600 * 10**9)
        file = SpoolFile.create(str(directory))
        file.append(finished(b"%d" % year))
        made.append(file.path)
        file.let_go()
    assert sorted(made) == made
    assert sent_from(directory) == [b"2030", b"2020", b"2025"]


def test_file_that_moves_keeps_its_place_in_the_order(directory: Path) -> None:
    first, second = (SpoolFile.create(str(directory)) for _ in range(2))
    first.append(finished(b"first"))
    second.append(finished(b"second"))
    first.move()
    assert first.path < second.path
    first.let_go()
    second.let_go()
    assert sent_from(directory) == [b"first", b"second"]


def change(path: str, script: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executescript(script)


ENDLESS = """
    DROP TABLE chunk;
    CREATE VIEW chunk AS WITH RECURSIVE more(number) AS (
        SELECT 1 UNION ALL SELECT number + 1 FROM more
    ) SELECT number, 1 AS events, 1 AS batch, 0 AS kept_at, 0 AS crc, x'00' AS text FROM more;
"""


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("PRAGMA user_version = 3", "it has version 3 of the format; this program knows 2"),
        ("PRAGMA application_id = 7", "it is no spool of this program"),
        (ENDLESS, "it has other tables than a spool"),
        (
            "CREATE TRIGGER t DELETE ON chunk BEGIN SELECT 1; END",
            "it has other tables than a spool",
        ),
    ],
    ids=["newer", "foreign", "endless", "trigger"],
)
@pytest.mark.timeout(60)
def test_file_that_is_whole_and_not_as_we_make_it_is_left_alone(
    script: str, why: str, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = SpoolFile.create(str(directory))
    file.append(finished(b"x"))
    file.let_go()
    change(file.path, script)
    assert sent_from(directory) == []
    assert capfd.readouterr().err.endswith(f": {file.path}: {why}; it is left alone\n")
    assert Path(file.path).name in names(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_file_of_somebody_else_is_left_alone(
    directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = SpoolFile.create(str(directory))
    file.append(finished(b"x"))
    file.let_go()
    os.chown(file.path, 65534, 65534)
    assert sent_from(directory) == []
    assert "it belongs to user 65534, and this is 0; it is left alone" in capfd.readouterr().err
    assert names(directory) == [Path(file.path).name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_somebody_else_is_refused(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    with pytest.raises(PermissionError, match="it belongs to user 65534, and this is 0"):
        sent_from(directory)

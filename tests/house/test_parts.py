"""Parts are loaded from beside the program, where links lead to, and from nowhere else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

import zmqpush
from tests.support.checkout import copy_folder, copy_programs, make_wrong_parts
from tests.support.collector import Collector
from tests.support.proc import wait_until_asleep
from tests.support.programs import TOP, Result
from tests.support.running import run_program
from tests.support.waiting import DEADLINE_S

#: An option for each part, and what else it needs to be the only thing that is wrong.
PARTS = {
    "--spool": ["--spool", "there"],
    "--spool-limit": ["--spool-limit", "1M"],
    "--list": ["--list"],
    "--omprog": ["--omprog"],
    "--omprog-transactions": ["--omprog-transactions"],
    "--omprog-begin": ["--omprog-begin", "x"],
    "--omprog-commit": ["--omprog-commit", "x"],
    "--ack": ["--ack"],
    "--format": ["--format", "json"],
    "--progress": ["--progress"],
    "--stats": ["--stats", "9"],
    "--gather": ["--gather", "9"],
    "--curve-key": ["--curve-key", "x"],
    "--curve-keygen": ["--curve-keygen", "x"],
    "--curve-server-key": ["--curve-server-key", "x"],
    "--curve-clients": ["--curve-clients", "x"],
}
FLAGS = pytest.mark.parametrize("flags", [[], ["-I"]], ids=["", "-I"])


def run(words: list[str], directory: Path, data: bytes = b"", **variables: str) -> Result:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env = {**ours, **variables}
    return run_program([sys.executable, *words], data, cwd=directory, env=env)


def check_ships_json(
    words: list[str], directory: Path, collector: Collector, **variables: str
) -> None:
    """A part is there, and makes the event."""
    options = ["--format", "json", "-c", collector.endpoint]
    result = run([*words, *options], directory, b'{"a":1}\n', **variables)
    assert (result.status, result.stderr) == (0, "")
    assert collector.receive(1) == [b'{"a":1,"type":"syslog","@pid":%d}' % result.pid]


# ---- without the folder -----------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A folder with a copy of zmqpush.py."""
    shutil.copy2(TOP / "zmqpush.py", tmp_path)
    return tmp_path


@pytest.mark.once
@FLAGS
@pytest.mark.parametrize("option", PARTS)
def test_an_option_whose_part_is_missing_says_so_in_one_line(
    option: str, flags: list[str], alone: Path
) -> None:
    result = run([*flags, "zmqpush.py", *PARTS[option]], alone)
    assert (result.status, result.stdout) == (2, "")
    needed = f"the folder zmqlines is needed beside {alone.resolve()}/zmqpush.py"
    assert result.stderr == f"zmqpush.py: {option}: {needed}\n"
    assert [path.name for path in alone.iterdir()] == ["zmqpush.py"]


def test_the_table_of_this_test_has_every_option_with_a_part() -> None:
    named = {f"--{dest.replace('_', '-')}" for dest in zmqpush.build_parser("")._part_of}
    assert named == set(PARTS)


def test_a_variable_that_asks_for_a_part_is_answered_like_the_option(alone: Path) -> None:
    result = run(["zmqpush.py"], alone, ZMQPUSH_ACK="1")
    assert result.status == 2
    assert result.stderr.startswith("zmqpush.py: --ack: the folder zmqlines is needed beside ")


def test_help_works_alone_and_names_all_options(alone: Path) -> None:
    result = run(["zmqpush.py", "--help"], alone)
    assert (result.status, result.stderr) == (0, "")
    assert all(option in result.stdout for option in PARTS)


def test_everything_else_works_alone(alone: Path, collector: Collector) -> None:
    options = ["-f", "a=b", "--timestamp", "--batch=5", "--max-line=1k", "--queue-limit=1M"]
    options += ["--gather=0", "--linger=9", "--sndhwm=10", "--high-water=1M"]
    result = run(["zmqpush.py", "app", *options, "-c", collector.endpoint], alone, b"x\n" * 7)
    assert (result.status, result.processed, result.stderr) == (0, 7, "")
    first, second = collector.events(2)
    assert [len(first), len(second)] == [5, 2]
    result = run(["zmqpush.py", "--format=raw", "-c", collector.endpoint], alone, b"x\n")
    assert (result.status, collector.receive(1)) == (0, [b"x"])


@pytest.mark.parametrize("program", ["zmqpull.py", "zmqpush-watermark.py"])
def test_the_other_programs_say_that_they_need_the_folder(program: str, alone: Path) -> None:
    shutil.copy2(TOP / program, alone)
    result = run([program], alone)
    assert (result.status, result.stdout) == (2, "")
    needed = f"the folder zmqlines is needed beside {alone.resolve()}/zmqpush.py"
    assert result.stderr == f"{program}: {needed}\n"


# ---- another folder ---------------------------------------------------------------------------


@FLAGS
def test_another_zmqlines_on_the_path_is_not_taken(
    flags: list[str], tmp_path: Path, collector: Collector
) -> None:
    make_wrong_parts(tmp_path)
    check_ships_json([*flags, str(TOP / "zmqpush.py")], tmp_path, collector)
    path = {"PYTHONPATH": str(tmp_path)}
    check_ships_json([*flags, str(TOP / "zmqpush.py")], tmp_path, collector, **path)
    for program in ("zmqpull.py", "zmqpush-watermark.py"):
        result = run([*flags, str(TOP / program), "--help"], tmp_path, b"", **path)
        assert (result.status, result.stderr) == (0, "")


def test_a_copied_file_does_not_find_a_folder_on_the_path(alone: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy_folder("zmqlines", elsewhere)
    result = run(["zmqpush.py", "--ack"], alone, PYTHONPATH=str(elsewhere))
    assert result.status == 2
    assert "the folder zmqlines is needed beside" in result.stderr


def test_a_folder_of_another_version_is_refused(alone: Path) -> None:
    copy_folder("zmqlines", alone)
    (alone / "zmqlines/__init__.py").write_text('__version__ = "0.9"\n')
    result = run(["zmqpush.py", "--ack"], alone)
    assert result.status == 2
    versions = f"is of version 0.9, this is {zmqpush.__version__}"
    assert result.stderr == f"zmqpush.py: --ack: {alone.resolve()}/zmqlines {versions}\n"


def test_a_folder_without_its_first_file_is_none(alone: Path) -> None:
    (alone / "zmqlines").mkdir()
    result = run(["zmqpush.py", "--ack"], alone)
    assert result.status == 2
    assert "the folder zmqlines is needed beside" in result.stderr


# ---- where programs lie -----------------------------------------------------------------------


@FLAGS
def test_links_lead_to_the_folder(flags: list[str], tmp_path: Path, collector: Collector) -> None:
    """As when it is installed by hand: the programs in lib, links to them in bin."""
    lib, bin_ = tmp_path / "lib", tmp_path / "bin"
    lib.mkdir()
    bin_.mkdir()
    copy_programs(lib)
    for program in ("zmqpush.py", "zmqpull.py", "zmqpush-watermark.py"):
        (bin_ / program).symlink_to(lib / program)
    check_ships_json([*flags, str(bin_ / "zmqpush.py")], tmp_path, collector)
    for program in ("zmqpull.py", "zmqpush-watermark.py"):
        result = run([*flags, str(bin_ / program), "--help"], tmp_path)
        assert (result.status, result.stderr) == (0, "")
    assert not list(lib.glob("__pycache__"))
    assert not list(bin_.glob("__pycache__"))
    assert list(lib.glob("zmqlines/__pycache__/json_format.*.pyc"))


def test_it_runs_as_a_module(tmp_path: Path, collector: Collector) -> None:
    copy_programs(tmp_path)
    check_ships_json(["-m", "zmqpush"], tmp_path, collector)


def test_it_runs_from_a_zip(tmp_path: Path, collector: Collector) -> None:
    source, archive = tmp_path / "source", tmp_path / "app.pyz"
    source.mkdir()
    copy_programs(source)
    zipapp.create_archive(source, archive, main="zmqpush:main")
    make_wrong_parts(tmp_path)
    check_ships_json([str(archive)], tmp_path, collector)
    (tmp_path / "link").symlink_to(archive)
    check_ships_json([str(tmp_path / "link")], tmp_path, collector)


def test_the_collector_runs_from_a_zip(tmp_path: Path) -> None:
    source, archive = tmp_path / "source", tmp_path / "app.pyz"
    source.mkdir()
    copy_programs(source)
    zipapp.create_archive(source, archive, main="zmqpull:main")
    result = run([str(archive), "--version"], tmp_path)
    assert (result.status, result.stdout) == (0, f"app.pyz {zmqpush.__version__}\n")


@FLAGS
def test_it_runs_as_debian_lays_it_out(
    flags: list[str], tmp_path: Path, collector: Collector
) -> None:
    """Modules where Python looks for packages, launchers elsewhere. -I leaves PYTHONPATH out."""
    modules, bin_ = tmp_path / "dist-packages", tmp_path / "bin"
    modules.mkdir()
    bin_.mkdir()
    copy_programs(modules)
    for name in ("zmqpush", "zmqpush.py", "zmqpull", "zmqpush-watermark"):
        shutil.copy2(TOP / "packaging/launcher", bin_ / name)
    path = {"PYTHONPATH": str(modules)}
    added = f"import sys; sys.path.append({str(modules)!r}); sys.argv = sys.argv[1:]; "
    for name in ("zmqpush", "zmqpush.py"):
        launcher = str(bin_ / name)
        run_it = f"import runpy; runpy.run_path({launcher!r}, run_name='__main__')"
        words = ["-I", "-c", added + run_it, launcher] if flags else [launcher]
        check_ships_json(words, tmp_path, collector, **path)
    for name in ("zmqpull", "zmqpush-watermark"):
        result = run([str(bin_ / name), "--help"], tmp_path, b"", **path)
        assert (result.status, result.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_launched_watermark_minds_signals(number: signal.Signals, tmp_path: Path) -> None:
    """Its output goes into a pipe that is full."""
    copy_programs(tmp_path)
    launcher = shutil.copy2(TOP / "packaging/launcher", tmp_path / "zmqpush-watermark")
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as full, open(reading, "rb"):
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, str(launcher)]
        with subprocess.Popen(command, stdout=full, stderr=subprocess.DEVNULL, env=env) as program:
            try:
                wait_until_asleep(program.pid)
                program.send_signal(number)
                program.wait(DEADLINE_S)
            finally:
                program.kill()


def test_a_script_and_the_module_that_parts_import_are_one(alone: Path) -> None:
    """Or a part's CannotKeep would not be the one that is caught."""
    copy_folder("zmqlines", alone)
    (alone / "zmqlines/progress.py").write_text(
        "import sys, zmqpush\n"
        "def check(options):\n"
        "    assert zmqpush is sys.modules['__main__']\n"
        "    sys.exit('one')\n"
    )
    ended = subprocess.run(
        [sys.executable, "zmqpush.py", "--progress"], cwd=alone, capture_output=True, check=False
    )
    assert ended.stderr == b"one\n"

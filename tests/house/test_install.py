"""Installed by pip, or copied as a bare file: the programs run where they are put."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import zmqpush
from tests.support.aliases import Ship
from tests.support.checkout import copy_programs, make_checkout, make_wrong_parts
from tests.support.collector import Collector
from tests.support.programs import TOP, Result
from tests.support.running import PROGRAMS, customized, run_program

pytestmark = [
    pytest.mark.timeout(240),  # pip may take its time
    pytest.mark.once,  # 3.14, in Debian testing, runs it as well
]

WATERMARKS = "Low watermark: 16384\nHigh watermark: 65536\n"
PIP_S = 120  # on a busy machine
SYSTEM_PATH = "/usr/bin:/bin"
DEBIAN_PYTHON = "/usr/bin/python3"


def environment(path: str, **more: str) -> dict[str, str]:
    """Of somebody who has nothing of ours but what is on `path`."""
    ours = ("ZMQPUSH_", "PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PATH": path, **more}


def run(command: list[str], directory: Path, path: str, data: bytes = b"") -> Result:
    return run_program(command, data, cwd=directory, env=environment(path))


def check_ships(command: list[str], directory: Path, path: str, collector: Collector) -> None:
    """A line goes in, an event comes out."""
    result = run([*command, "-c", collector.endpoint], directory, path, b"x\n")
    assert (result.status, result.stderr) == (0, "")
    assert result.processed == 1
    assert collector.events(1) == [{"message": "x", "type": "syslog", "@pid": result.pid}]


def check_others(python: list[str], place: str, directory: Path, path: str) -> None:
    """The programs beside it find it; each is run by `python`, or by itself, from `place`."""
    result = run([*python, f"{place}zmqpush-watermark.py"], directory, path)
    assert (result.status, result.stdout, result.stderr) == (0, WATERMARKS, "")
    result = run([*python, f"{place}zmqpull.py", "--version"], directory, path)
    version = f"zmqpull.py {zmqpush.__version__}\n"
    assert (result.status, result.stdout, result.stderr) == (0, version, "")


# ---- by pip -----------------------------------------------------------------------------------


def pip(*arguments: str) -> str:
    """Run pip; return "" or why it failed. Where there is no network, that is to be known soon."""
    impatient = {"PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "5"}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
            env={**os.environ, **impatient},
            capture_output=True,
            text=True,
            check=False,
            timeout=PIP_S,
        )
    except subprocess.TimeoutExpired as error:
        return str(error)
    return (ended.stderr or "it failed") if ended.returncode else ""


def why_not(failure: str, directory: Path) -> str:
    """What a `failure` of pip means; "skip: …" where nobody could have done better."""
    if failure and pip("download", "--no-deps", "--dest", str(directory), "aiozmq"):
        return "skip: the package registry cannot be reached"
    return failure


def check(outcome: str) -> None:
    if outcome.startswith("skip: "):
        pytest.skip(outcome[len("skip: ") :])
    assert not outcome, outcome


def install(directory: Path) -> str:
    """Install a copy of the checkout into a new virtual environment; tell what went wrong."""
    copy, venv = directory / "copy", directory / "venv"
    make_checkout(copy)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    failure = pip("--python", str(venv / "bin/python"), "install", f"{copy}[progress]")
    return why_not(failure, directory)


@pytest.fixture(scope="session")
def venv(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A virtual environment with the programs in it; one for all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "installed"
    outcome = directory / "outcome"
    with open(f"{directory}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            shutil.rmtree(directory, ignore_errors=True)
            outcome.write_text(install(directory), encoding="utf-8")
    check(outcome.read_text(encoding="utf-8"))
    return directory / "venv"


@pytest.fixture
def path(venv: Path) -> str:
    """The PATH on which the installed programs are."""
    return f"{venv / 'bin'}:{SYSTEM_PATH}"


def test_pip_puts_the_programs_on_the_path_under_their_names(
    venv: Path, path: str, tmp_path: Path, collector: Collector
) -> None:
    for program in PROGRAMS:
        assert shutil.which(program, path=path) == str(venv / "bin" / program)
    check_ships(["zmqpush.py"], tmp_path, path, collector)
    check_others([], "", tmp_path, path)


def test_pip_installs_each_program_under_both_names_and_the_modules(venv: Path) -> None:
    launchers = {path.name for path in (venv / "bin").glob("zmq*")}
    assert launchers == {*PROGRAMS, *(program[: -len(".py")] for program in PROGRAMS)}
    (site_packages,) = venv.glob("lib/python*/site-packages")
    ours = {path.name for path in site_packages.glob("zmq[pl]*")}
    (info,) = (name for name in ours if re.fullmatch(r"zmqpush-.*\.(dist|egg)-info", name))
    assert ours - {info} == {"zmqpush.py", "zmqpull.py", "zmqlines"}
    parts = {path.relative_to(site_packages) for path in site_packages.glob("zmqlines/**/*.py")}
    assert parts == {path.relative_to(TOP) for path in TOP.glob("zmqlines/**/*.py")}


@pytest.mark.parametrize("end", ["", ".py"])
def test_an_installed_program_says_its_own_name(end: str, path: str, tmp_path: Path) -> None:
    for program in PROGRAMS:
        name = program[: -len(".py")] + end
        result = run([name, "--version"], tmp_path, path)
        assert (result.status, result.stdout) == (0, f"{name} {zmqpush.__version__}\n")


def test_the_installed_shipper_has_all_parts(path: str, tmp_path: Path) -> None:
    options = ["--omprog", "--ack", "--format=json", "--progress", "--linger=0"]
    result = run(["zmqpush", *options, f"--spool={tmp_path}/spool"], tmp_path, path)
    assert (result.status, result.stdout) == (0, "OK\n")


def test_a_launcher_is_not_misled_by_what_lies_beside_it_or_in_the_directory(
    venv: Path, path: str, tmp_path: Path, collector: Collector
) -> None:
    """Beside a launcher lies another one, called zmqpush.py: that is no module."""
    (tmp_path / "zmqpush.py").write_text("raise SystemExit('the wrong one')")
    make_wrong_parts(tmp_path)
    for name in ("zmqpush", "zmqpush.py"):
        for flags in ([], ["-I"]):
            python = [str(venv / "bin/python"), *flags, str(venv / "bin" / name)]
            check_ships(python, tmp_path, path, collector)
            check_ships([*python, "--format=json"], tmp_path, path, collector)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("imported", ["importlib", "zmqpush", "zmq", "aiozmq"])
def test_a_signal_during_the_imports_of_a_launcher_waits(
    number: signal.Signals, imported: str, venv: Path, tmp_path: Path, collector: Collector
) -> None:
    code = f"""
import os, sys
def send_signal(event, args):
    if event == "import" and args[0] == {imported!r} and "signal" in sys.modules:
        os.kill(os.getpid(), {number:d})
sys.addaudithook(send_signal)
"""
    env = customized(tmp_path, code)
    command = [str(venv / "bin/zmqpush"), "-c", collector.endpoint]
    result = run_program(command, b"x\n", cwd=tmp_path, env=env)
    assert (result.status, result.processed, result.stderr) == (0, 1, "")


def test_the_installed_version_is_that_of_the_program(venv: Path) -> None:
    (metadata,) = venv.glob("lib/python*/site-packages/zmqpush-*")
    assert metadata.name.startswith(f"zmqpush-{zmqpush.__version__}.")


def test_installed_programs_work_through_a_symlink(
    venv: Path, path: str, tmp_path: Path, collector: Collector
) -> None:
    for program in PROGRAMS:
        (tmp_path / program).symlink_to(venv / "bin" / program)
    check_ships(["./zmqpush.py"], tmp_path, SYSTEM_PATH, collector)
    check_others([], "./", tmp_path, SYSTEM_PATH)


@pytest.mark.long
def test_every_extra_names_packages_that_are_there(venv: Path, path: str, tmp_path: Path) -> None:
    code = (
        "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('zmqpush')))"
    )
    requirements = json.loads(run(["python", "-c", code], tmp_path, path).stdout)
    extras: dict[str, set[str]] = {}
    for requirement in requirements:
        package, _, marker = requirement.partition(";")
        extra = re.search(r"extra == .(\w+)", marker)
        extras.setdefault(extra[1] if extra else "", set()).add(package.strip())
    assert set(extras) == {"", "progress", "redis", "test", "lint"}
    assert extras["progress"] == {"tqdm"}
    assert {re.split("[<=>]", package)[0] for package in extras["redis"]} == {"redis"}
    names = sorted(set().union(*extras.values()))
    python = str(venv / "bin/python")
    failure = pip("--python", python, "install", "--dry-run", "--no-deps", *names)
    check(why_not(failure, tmp_path))


def test_the_extra_progress_is_what_progress_needs(path: str, tmp_path: Path) -> None:
    result = run(["zmqpush.py", "--progress"], tmp_path, path)
    assert (result.status, result.processed) == (0, 0)


# ---- as a bare file ---------------------------------------------------------------------------


def test_the_programs_of_a_checkout_work_through_a_symlink_from_anywhere(
    tmp_path: Path, collector: Collector
) -> None:
    for program in PROGRAMS:
        (tmp_path / program).symlink_to(TOP / program)
    check_ships([sys.executable, "zmqpush.py"], tmp_path, SYSTEM_PATH, collector)
    check_others([sys.executable], "", tmp_path, SYSTEM_PATH)


def test_the_shipper_alone_is_enough_and_leaves_nothing_behind(
    tmp_path: Path, collector: Collector
) -> None:
    shutil.copy2(TOP / "zmqpush.py", tmp_path)
    check_ships([sys.executable, "zmqpush.py"], tmp_path, SYSTEM_PATH, collector)
    assert [path.name for path in tmp_path.iterdir()] == ["zmqpush.py"]


def test_the_other_programs_leave_nothing_behind(tmp_path: Path) -> None:
    copy_programs(tmp_path)
    check_others([sys.executable], "", tmp_path, SYSTEM_PATH)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*PROGRAMS, "zmqlines"])


def has_packages(python: str) -> bool:
    """aiozmq alone cannot be imported by Python 3.14."""
    probe = [python, "-c", "import zmq, importlib.util as i; i.find_spec('aiozmq').name"]
    probed = subprocess.run(probe, env=environment(SYSTEM_PATH), capture_output=True, check=False)
    return probed.returncode == 0


@pytest.mark.long
def test_the_bare_files_work_with_the_packages_of_debian(
    tmp_path: Path, collector: Collector
) -> None:
    if not (Path(DEBIAN_PYTHON).exists() and has_packages(DEBIAN_PYTHON)):
        pytest.skip("python3-zmq and python3-aiozmq are not installed")
    copy_programs(tmp_path)
    check_ships(["./zmqpush.py"], tmp_path, SYSTEM_PATH, collector)
    check_others([], "./", tmp_path, SYSTEM_PATH)


def test_it_works_without_the_child_watchers_that_python_3_14_has_dropped(
    ship: Ship, tmp_path: Path, collector: Collector
) -> None:
    """aiozmq 1.0.0 imports SafeChildWatcher, and does not use it here."""
    code = """
import asyncio.unix_events
for name in dir(asyncio.unix_events):
    if name.endswith("ChildWatcher") and not name.startswith("_"):
        delattr(asyncio.unix_events, name)
"""
    env = customized(tmp_path, code)
    probe = "import asyncio.unix_events; asyncio.unix_events.SafeChildWatcher"
    probed = subprocess.run(
        [sys.executable, "-c", probe], env=env, capture_output=True, check=False
    )
    assert b"AttributeError" in probed.stderr, "or this test is for nothing"

    result = ship("-c", collector.endpoint, env=env).finish(b"x\n")
    assert (result.status, result.processed, result.stderr) == (0, 1, "")
    assert collector.texts(1) == ["x"]
    watermarks = ship(program="zmqpush-watermark.py", env=env).finish()
    assert (watermarks.status, watermarks.stdout) == (0, WATERMARKS)

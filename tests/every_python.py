#!/usr/bin/env python3
"""Runs the tests on every Python of this machine that we support, or some of them on one.

    every_python.py               all tests, on every Python; on our own only those that are long,
                                  or no matter of the version
    every_python.py spool ack     these rooms (folders of tests/), on our own, without the long ones
    every_python.py --long spool  with them

Our own Python is the one that runs this. The last line says `N passed, N failed, N skipped`, over
all runs. The status is 1 where a test failed or a run found none. Each Python has a virtual
environment of its own, `.venvs/X.Y`, made by the Makefile.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

TOP = Path(__file__).resolve().parent.parent
SUPPORTED = [f"3.{minor}" for minor in range(9, 15)]
OWN = "{}.{}".format(*sys.version_info)
AT_ONCE = 2  # the long tests of our own Python leave the processor to the others
CPUS = os.cpu_count() or 1
WORKERS = 3 * CPUS - 1  # most tests of our own Python wait for something most of the time
WORKERS_OF_OTHERS = 2 * CPUS - 1
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
PYTEST = ("-m", "pytest", "--dist=worksteal")
SHORT = "not soak and not long"
WITH_LONG = "not soak"
ON_OTHERS = "not soak and not long and not once"


def candidates(version: str) -> Iterator[str]:
    """Where a Python of that version may be: on the PATH, then in pyenv."""
    if version == OWN:
        yield sys.executable
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], stdout=subprocess.PIPE, text=True, check=True)
        for path in Path(root.stdout.strip(), "versions").glob(f"{version}*/bin/python{version}"):
            yield str(path)


def is_usable(python: str) -> bool:
    """A shim of pyenv may be there and refuse; Debian's Python may lack what makes a venv."""
    probe = [python, "-c", "import ensurepip, ssl"]
    return subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0


def venv_python(version: str) -> Optional[str]:
    """The interpreter of that version's virtual environment, or None without such a Python."""
    python = next(filter(is_usable, candidates(version)), None)
    if python is None:
        return None
    venv = f".venvs/{version}"
    make = ["make", "--no-print-directory", f"{venv}/.made", f"PYTHON={python}"]
    subprocess.run(make, cwd=TOP, check=True)
    return str(TOP / venv / "bin/python")


def run_suite(version: str, python: str, marks: str, paths: list[str]) -> Counter[str]:
    """Run tests once, saying what pytest says; count what passed, failed and skipped."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "junit.xml")
        workers = WORKERS if version == OWN else WORKERS_OF_OTHERS
        command = [python, *PYTEST, f"-n{workers}", f"--junitxml={report}", "-m", marks, *paths]
        # Bytecode is kept, as it is where the programs are used; it makes the tests begin sooner.
        env = {name: value for name, value in os.environ.items() if name != NO_BYTECODE}
        if version != OWN:  # of a property, fewer examples: it is the same property
            env["EXAMPLES"] = "30"
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=TOP, stdout=pipe, text=True, env=env) as process:
            assert process.stdout
            for line in process.stdout:
                print(f"{version:4}  {line}", end="", flush=True)
        counts = read_report(report) if report.exists() else Counter()
    if process.returncode and not counts["failed"]:
        counts["failed"] = 1  # the run itself: no test found, or pytest did not start
    print(f"Python {version} took {time.monotonic() - begin:.0f} s", flush=True)
    return counts


def read_report(path: Path) -> Counter[str]:
    suite = ElementTree.parse(path).find("testsuite")
    assert suite is not None
    tests, failures, errors, skipped = (
        int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return Counter(passed=tests - failed - skipped, failed=failed, skipped=skipped)


def pythons(versions: list[str]) -> dict[str, str]:
    """The interpreters of those versions that are on this machine."""
    found = {}
    for version in versions:
        python = venv_python(version)
        if python is None:
            print(f"Python {version}: not on this machine", flush=True)
        else:
            found[version] = python
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--long", action="store_true", help="also a room's long tests")
    parser.add_argument("rooms", nargs="*", metavar="ROOM")
    options = parser.parse_args()

    # Our own takes longest, so it is the first.
    others = [] if options.rooms else [version for version in SUPPORTED if version != OWN]
    marks = {OWN: WITH_LONG if options.long or not options.rooms else SHORT}
    paths = [f"tests/{room}" for room in options.rooms]
    with ThreadPoolExecutor(AT_ONCE) as executor:
        runs = [
            executor.submit(run_suite, version, python, marks.get(version, ON_OTHERS), paths)
            for version, python in pythons([OWN, *others]).items()
        ]
    total = sum((run.result() for run in runs), Counter[str]())
    print("{passed} passed, {failed} failed, {skipped} skipped".format_map(total))
    sys.exit(1 if total["failed"] else 0)


if __name__ == "__main__":
    main()

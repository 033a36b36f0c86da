#!/usr/bin/env python3
"""Runs the test suite on every Python of this machine that we support.

The last line says `N passed, N failed, N skipped`, over all of them. The status is 1 where a run
failed or found no test. Each Python has a virtual environment of its own, `.venvs/X.Y`, made by
the Makefile; the one that runs this is used as it is.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

TOP = Path(__file__).resolve().parent.parent
SUPPORTED = [f"3.{minor}" for minor in range(9, 15)]
OWN = "{}.{}".format(*sys.version_info)
WORKERS = 2 * (os.cpu_count() or 1)  # most tests wait for something most of the time
PYTEST = ("-m", "pytest", f"--numprocesses={WORKERS}", "--dist=worksteal")


def candidates(version: str) -> Iterator[str]:
    """Where a Python of that version may be: on the PATH, then in pyenv."""
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
    if version == OWN:
        return sys.executable
    python = next(filter(is_usable, candidates(version)), None)
    if python is None:
        return None
    venv = f".venvs/{version}"
    make = ["make", "--no-print-directory", f"{venv}/.made", f"PYTHON={python}", "EXTRAS=test"]
    subprocess.run(make, cwd=TOP, check=True)
    return str(TOP / venv / "bin/python")


def run_suite(python: str) -> Counter[str]:
    """Run the suite once; count what passed, failed and skipped. Long tests run on our own only."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "junit.xml")
        command = [python, *PYTEST, f"--junitxml={report}"]
        if python != sys.executable:
            command += ["-m", "not soak and not long"]
        status = subprocess.run(command, cwd=TOP, check=False).returncode
        counts = read_report(report) if report.exists() else Counter()
    if status and not counts["failed"]:
        counts["failed"] = 1  # the run itself: no test found, or pytest did not start
    return counts


def read_report(path: Path) -> Counter[str]:
    suite = ElementTree.parse(path).find("testsuite")
    assert suite is not None
    tests, failures, errors, skipped = (
        int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return Counter(passed=tests - failed - skipped, failed=failed, skipped=skipped)


def main() -> None:
    total: Counter[str] = Counter()
    for version in SUPPORTED if OWN in SUPPORTED else [*SUPPORTED, OWN]:
        python = venv_python(version)
        if python is None:
            print(f"Python {version}: not on this machine", flush=True)
            continue
        print(f"Python {version}", flush=True)
        begin = time.monotonic()
        total += run_suite(python)
        print(f"Python {version} took {time.monotonic() - begin:.0f} s", flush=True)
    print("{passed} passed, {failed} failed, {skipped} skipped".format_map(total))
    sys.exit(1 if total["failed"] else 0)


if __name__ == "__main__":
    main()

"""Where the commands of the documents are run, and a record of what has been.

It has a network of its own, in which port 2120 is free, and a /usr/local in which only our programs
are new, installed by hand as the README has it. It has its own processes, too: what `pkill` there
finds is nobody else's.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import Block, block
from tests.support.checkout import make_checkout
from tests.support.programs import TOP
from tests.support.waiting import DEADLINE_S

BY_HAND = block("README.md", "Install", 1)
PROGRAMS = ["zmqpush.py", "zmqpull.py", "zmqpush-watermark.py"]

NAMESPACES = ["--map-root-user", "--net", "--mount", "--pid", "--mount-proc"]
UNSHARE = ["unshare", *NAMESPACES, "--fork", "--kill-child"]
PREAMBLE = """
private() {  # private DIRECTORY: as it is, but without us, and what is written there is seen here
    mkdir -p "real$2" && mount --rbind "$1" "real$2" && mount -t tmpfs tmpfs "$1"
    for entry in "real$2"/*; do
        place="$1/${entry##*/}"
        case "${entry##*/}" in zmq*) continue;; esac
        if [ -L "$entry" ]; then cp -P "$entry" "$place"
        elif [ -d "$entry" ]; then mkdir "$place"; mount --rbind "$entry" "$place"
        else touch "$place"; mount --bind "$entry" "$place"
        fi
    done
}
ip link set lo up
private /usr/local/bin 1
private /usr/local/lib 2
"""
#: Shell: a collector of pyzmq that prints what arrives into the file `arrived`.
PRINTER = f"""
"{sys.executable}" "{TOP}/tests/support/pull_printer.py" >arrived 2>printer & printer=$!
disown
trap 'kill $printer' EXIT
until [ -s printer ]; do sleep 0.01; done
"""
#: Shell: a rsyslogd with a configuration of the documents, and a /var/log and /var/spool for it.
RSYSLOGD = """
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /var/spool
mkdir /var/spool/rsyslog
rsyslogd -n -f "$PWD/rsyslog.conf" -i "$PWD/pid" & rsyslogd=$!
disown
trap 'kill -9 $rsyslogd $printer' EXIT
"""


# ---- a record of what was run -----------------------------------------------------------------

#: Which test runs a block; filled as the test modules are imported.
RUN_BY: dict[Block, str] = {}
#: What the present test has run so far.
ran: list[str] = []


def runs(*shown: Block, apart_from: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """For a test that runs `shown`; it fails unless it has run each command in them.

    `apart_from` begin the commands that it cannot run, and looks after in another way.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def checked(*arguments: Any, **keywords: Any) -> None:
            ran.clear()
            test(*arguments, **keywords)
            said = "\n".join(ran)
            steps = [step for each in shown for step in each.steps]
            left = [step for step in steps if step.rstrip("& ") not in said]
            assert [step for step in left if not step.startswith(apart_from)] == []

        RUN_BY.update(dict.fromkeys(shown, f"{test.__module__}.{test.__name__}"))
        return checked

    return decorate


# ---- the sandbox ------------------------------------------------------------------------------


class Sandbox:
    """Runs scripts of bash in `folder`, in namespaces with the programs installed."""

    def __init__(self, folder: Path) -> None:
        """Skips the test where there are no namespaces."""
        probe = subprocess.run([*UNSHARE, "ip", "link"], capture_output=True, check=False)
        if probe.returncode:
            pytest.skip("no namespaces to be had here")
        self.folder = folder
        make_checkout(folder / "checkout")
        install = [step for step in BY_HAND.commands if not step.startswith("apt-get")]
        bin_folder = Path(sys.executable).parent
        (folder / "preamble").write_text(
            f'set -e\n{PREAMBLE}\ncd checkout\n{chr(10).join(install)}\ncd "{folder}"\nset +e\n'
            f'export PATH="{bin_folder}:/usr/local/bin:$PATH"\n'
        )

    def run(self, script: str, peer: str = PRINTER) -> str:
        """What a script prints, in which nothing may fail or be said on stderr."""
        done = subprocess.run(
            self._command(peer + script),
            cwd=self.folder,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        # On a busy machine a collector may take its time.
        said = re.sub(r".*: the input has ended; .*\n", "", done.stderr)
        assert (done.returncode, said) == (0, ""), done
        return done.stdout

    def start(self, script: str, **popen: Any) -> subprocess.Popen[str]:
        """A script in a session of its own, so that a signal to its group is a Ctrl-C."""
        return subprocess.Popen(
            self._command(script),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **popen,
        )

    def write(self, name: str, shown: Block, before: str = "") -> None:
        """Write a file of the documents, with something that belongs before it."""
        ran.append(shown.text)
        path = self.folder / name
        path.write_text(before + shown.text)
        path.chmod(0o644)

    def arrived(self) -> list[bytes]:
        """What PRINTER got, a message a line."""
        path = self.folder / "arrived"
        return path.read_bytes().splitlines() if path.exists() else []

    def _command(self, script: str) -> list[str]:
        ran.append(script)
        return [*UNSHARE, "bash", "-c", f'. "{self.folder}/preamble"; eval "$1"', "bash", script]


def waits_for(count: int) -> str:
    """Shell: wait until so many lines have arrived."""
    return f"\nuntil [ $(grep -c '' <arrived) -ge {count} ]; do sleep 0.01; done\n"

"""The input of the bench: made up, varied, and the same in every run.

`plain` is what a quiet syslog looks like. `hard` has quotes, tabs, backslashes and UTF-8 of
two, three and four bytes in its lines, so that a shipper cannot be fast on easy lines only.
Both come to about 100 bytes a line.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

SEED = 2120
LINES_PER_WRITE = 10_000

HOSTS = ("web1", "web2", "db1", "mail", "gw", "build7")
USERS = ("alice", "bob", "carol", "deploy", "backup", "root")
PATHS = ("/index.html", "/api/v2/orders", "/static/app.js", "/login", "/health", "/search?q=zeromq")
NAMES = (
    "Zoë",
    "François",
    "Jürgen",
    "Ольга",
    "田中太郎",
    "김민준",
    "محمد",
    "🦊 Fox",
    "Ελένη",
    "😀",
)
WINDOWS_PATHS = (
    r"C:\Users\bob\AppData",
    r"D:\logs\2024\out.txt",
    r"\\share\backup\db",
    r"C:\temp\new",
)


@dataclass(frozen=True)
class Input:
    """A file of lines, named as the report calls it."""

    name: str
    path: Path
    lines: int

    def head(self, lines: int) -> Input:
        """The first lines of it, as a file of their own beside it."""
        path = self.path.with_suffix(f".{lines}")
        if not path.exists():
            with self.path.open("rb") as source:
                path.write_bytes(b"".join(itertools.islice(source, lines)))
        return Input(self.name, path, lines)


def plain(source: random.Random) -> str:
    """What sshd, cron, a web server, the kernel or postfix would say."""
    pick, number = source.choice, source.randrange
    pid, user = number(1 << 22), pick(USERS)
    address = f"10.{number(256)}.{number(256)}.{number(256)}"
    return pick(
        (
            f"sshd[{pid}]: Accepted publickey for {user} from {address} port {number(1 << 16)}",
            f"CRON[{pid}]: ({user}) CMD (test -x /usr/sbin/job && nice /usr/sbin/job {pid % 999})",
            f"nginx: {address} GET {pick(PATHS)} HTTP/1.1 {pick((200, 304, 404))} {pid} 12ms",
            f"kernel: [{number(10**6)}.{pid:07d}] eth0: rx {pid * 997} tx {pid * 13} dropped 0",
            f"postfix/smtp[{pid}]: {number(1 << 40):X}: to=<{user}@example.org>, status=sent",
        )
    )


def hard(source: random.Random) -> str:
    """With several of the things that are not simply copied into JSON."""
    pick, number = source.choice, source.randrange
    pid, name = number(1 << 22), pick(NAMES)
    return pick(
        (
            f'app[{pid}]: {{"user": "{name}", "path": "{pick(PATHS)}", "ms": {pid % 3000}}}',
            f"agent:\tcopied\t{pick(WINDOWS_PATHS)}\\{pid}.log\tfor {name}\t{pid * 7} bytes",
            f'nginx: 10.0.0.{pid % 256} "GET {pick(PATHS)} HTTP/1.1" "{name}" "curl/7.{pid % 90}"',
            f'chat[{pid}]: {name} said “{pick(NAMES)} – {pid}€” in "{pick(USERS)}"\t→ {pid % 99}',
        )
    )


def start_of_line(source: random.Random) -> str:
    """Time and host, as in a traditional syslog file."""
    second = source.randrange(24 * 60 * 60)
    clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    return f"Nov {source.randrange(1, 31):2d} {clock} {source.choice(HOSTS)}"


def make_lines(say: Callable[[random.Random], str]) -> Iterator[str]:
    """Lines without end, as in a traditional syslog file: when, where, and what was said."""
    source = random.Random(SEED)
    while True:
        said = say(source)
        yield f"{start_of_line(source)} {said}\n"


def write_lines(path: Path, lines: int, say: Callable[[random.Random], str]) -> None:
    """Write a file of so many lines."""
    made = itertools.islice(make_lines(say), lines)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        while block := "".join(itertools.islice(made, LINES_PER_WRITE)):
            file.write(block)


def make_inputs(folder: Path, lines: int) -> list[Input]:
    """Write both inputs into a folder."""
    makers = {"plain": plain, "hard": hard}
    inputs = [Input(name, folder / f"{name}.log", lines) for name in makers]
    for source in inputs:
        write_lines(source.path, lines, makers[source.name])
    return inputs

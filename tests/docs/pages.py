"""The README and docs/ as tests see them: sections, tables, and blocks of code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import TOP

PAGES = ["README.md", *sorted(str(path.relative_to(TOP)) for path in TOP.glob("docs/*.md"))]

#: A heading, or a block of code. In a block, nothing is a heading.
PARTS = re.compile(
    r"^(?P<marks>#+) (?P<heading>.*)\n|^```(?P<language>.*)\n(?P<text>(?s:.*?))^```$", re.MULTILINE
)


def read(page: str) -> str:
    """The text of a page, whose path is relative to the top of the checkout."""
    return Path(TOP, page).read_text(encoding="utf-8")


# ---- blocks of code ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block of code. Two with the same text are one: what runs one runs both."""

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """What to type."""
        return re.findall(r"^[$#] (.*)$", self.text, re.MULTILINE)

    @property
    def steps(self) -> list[str]:
        """What a test has to run: each command, or all of a file."""
        return self.commands if self.language == "console" else [self.text]

    @property
    def output(self) -> str:
        """A pattern of what is shown below the commands: any numbers will do."""
        lines = re.findall(r"^(?![$#] )(?:\^C)?(.*\n)", self.text, re.MULTILINE)
        return re.sub(r"\d+(?:\\\.\d+)?", r"[\\d.]+", "".join(map(re.escape, lines)))


def blocks(page: str, heading: str | None = None) -> list[Block]:
    """The blocks of a page; with `heading`, those between that one and the next."""
    found = []
    under = ""
    for part in PARTS.finditer(read(page)):
        if part["heading"] is not None:
            under = part["heading"]
        elif heading in (None, under):
            found.append(Block(part["language"], part["text"]))
    return found


def block(page: str, heading: str, number: int = 0, language: str = "console") -> Block:
    """The block of that language and number under a heading. Raises LookupError."""
    found = [each for each in blocks(page, heading) if each.language == language]
    if number >= len(found):
        raise LookupError(f"{page}: under {heading!r} there is no {language} block {number}")
    return found[number]


# ---- sections, tables, links ------------------------------------------------------------------


def headings(page: str) -> list[str]:
    """All headings, without their marks."""
    return [part["heading"] for part in PARTS.finditer(read(page)) if part["heading"] is not None]


def section(page: str, title: str) -> str:
    """What is under a heading, with all that is under it, up to the next one of that level."""
    parts = list(PARTS.finditer(read(page)))
    for index, part in enumerate(parts):
        if part["heading"] == title:
            ends = [
                later.start()
                for later in parts[index + 1 :]
                if later["marks"] and len(later["marks"]) <= len(part["marks"])
            ]
            return read(page)[part.end() : min(ends, default=None)]
    raise LookupError(f"{page} has no heading {title!r}")


def tables(text: str) -> list[list[list[str]]]:
    """The tables in `text`: their rows, each a list of cells; the first one is the heading."""
    found = []
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in table.splitlines()
        ]
        found.append([rows[0], *rows[2:]])
    return found


def anchors(page: str) -> set[str]:
    """What a link may have behind `#`, as GitHub makes it of the headings."""
    found: set[str] = set()
    for heading in headings(page):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(name)
    return found


def links(page: str) -> list[str]:
    """The targets of all links of a page."""
    text = re.sub(r"`[^`\n]*`", "", PARTS.sub(keep_heading, read(page)))
    found = re.findall(r"\]\(([^)\s]+)\)|^\[[^]]*\]: (\S+)$", text, re.MULTILINE)
    return [inline or reference for inline, reference in found]


def keep_heading(part: re.Match[str]) -> str:
    """For re.sub: takes blocks of code away."""
    return part[0] if part["heading"] is not None else ""

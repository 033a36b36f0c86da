"""The pages themselves: short, whole, with links that lead somewhere and nothing untried."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, anchors, blocks, links, read, section, tables
from tests.docs.sandbox import RUN_BY
from tests.support.programs import TOP

MOST_LINES = 200
#: Blocks in these languages are run, or compared with what was sent.
TRIED = ["console", "rsyslog", "conf", "json", "session"]
#: And these are not: configurations of what is not here, a grammar, drawings.
UNTRIED = ["logstash", "ini", "abnf", ""]


def test_the_readme_is_short() -> None:
    assert read("README.md").count("\n") <= MOST_LINES


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_by_a_test(page: str) -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.docs.{path.stem}")  # which fills RUN_BY
    assert {block.language for block in blocks(page)} <= {*TRIED, *UNTRIED}
    untried = [block for block in blocks(page) if block.language in TRIED and block not in RUN_BY]
    assert [block.text for block in untried] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (TOP / page).parent / path if path else TOP / page
        if re.match(r"\w+://", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(relative(target))):
            broken.append(link)
    assert broken == []


def relative(path: Path) -> str:
    """As PAGES has it."""
    return str(path.resolve().relative_to(TOP))


def test_the_readme_links_to_every_page() -> None:
    assert {link for link in links("README.md") if link.endswith(".md")} == set(PAGES) - {
        "README.md"
    }


def test_every_make_target_named_is_there() -> None:
    listed = re.findall(r"^(\w+):.*## ", (TOP / "Makefile").read_text(), re.MULTILINE)
    named = {
        word for page in PAGES for word in re.findall(r"(?:`|^\$ )make (\w+)", read(page), re.M)
    }
    assert named <= set(listed)
    assert "demo" in named


def test_the_readme_figures_are_those_of_the_bench() -> None:
    (table,) = tables(section("README.md", "Figures"))
    assert len(table) + 1 <= 10  # lines: the one below the heading, too
    for link, *figures in table[1:]:
        title = re.fullmatch(r"\[(.*)\]\(docs/figures\.md#.*\)", link)
        assert title, link
        (measured, *_) = tables(section("docs/figures.md", title[1]))
        assert figures in [row[:4] for row in measured]

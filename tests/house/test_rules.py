"""The rules of the house (docs/architecture.md): who may import whom, and how large a room is.

Each failure says what to do instead.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import zmqpush
from tests.support.programs import TOP
from zmqlines import sinks

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version

GROUND_FLOOR = "zmqpush"
PARTS = "zmqlines"
PROGRAMS = {"zmqpull": "zmqpull.py", "zmqpush-watermark": "zmqpush-watermark.py"}
PURE = ["ack", "events", "finished", "json_format"]  # no sockets, no clock, no files
IMPURE = {"asyncio", "os", "select", "socket", "sqlite3", "threading", "time", "zmq", "aiozmq"}
AS_EXTRAS = {"redis", "tqdm"}  # imported where they are used
LOADERS = {"import_module", "__import__"}
#: Lines of a file, at most: what it is part of, and how much.
SIZES = [
    ("zmqpush.py", 1729),  # without the table of options
    ("zmq*.py", 500),
    ("zmqlines/**/*.py", 500),
    ("tests/**/*.py", 800),
    ("README.md", 200),
]
ROOMS = {  # of the tests, and what they are about
    "ack": "the protocol, and both its ends",
    "curve": "zmqlines/curve.py, keys.py and zap.py",
    "chaos": "everything together, killed at random",
    "docs": "the commands in the documents",
    "house": "installation, and these rules",
    "omprog": "zmqlines/omprog.py",
    "pull": "zmqpull.py",
    "push": "zmqpush.py",
    "rsyslog": "zmqpush.py under rsyslogd",
    "sinks": "zmqlines/sinks",
    "spool": "zmqlines/spool*.py",
}
OUTSIDE = {"bench", "forky", "support"}  # folders of tests that have none


def sources() -> dict[str, Path]:
    """The files of the house, by the name that one imports them by."""
    found = {GROUND_FLOOR: TOP / "zmqpush.py"}
    found |= {name: TOP / path for name, path in PROGRAMS.items()}
    for path in sorted(TOP.glob(f"{PARTS}/**/*.py")):
        name = ".".join(path.relative_to(TOP).with_suffix("").parts)
        found[name[: -len(".__init__")] if name.endswith(".__init__") else name] = path
    return found


SOURCES = sources()


def imports(node: ast.AST) -> Iterator[str]:
    """The names of the modules that the code in `node` imports, wherever it does."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            assert each.level == 0, "write the whole name of a module that you import"
            module = each.module or ""
            inside = [f"{module}.{alias.name}" for alias in each.names]
            yield from [name for name in inside if name in SOURCES] or [module]


def imports_of(name: str) -> set[str]:
    return set(imports(ast.parse(SOURCES[name].read_text(encoding="utf-8"))))


def ours(name: str) -> set[str]:
    return imports_of(name) & set(SOURCES)


def test_the_ground_floor_imports_nothing_of_ours() -> None:
    assert ours(GROUND_FLOOR) == set(), (
        "zmqpush.py must run where it is copied alone: let an option name the part in "
        "build_parser(), and get it by part()"
    )


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith(PARTS)])
def test_a_part_does_not_import_a_program(name: str) -> None:
    assert ours(name) & set(PROGRAMS) == set(), (
        "what a part and a program share belongs into a part of its own, below both"
    )


def test_no_circle_of_imports() -> None:
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        assert name not in way, (
            f"{' -> '.join([*way, name])}: move what both need into a file below them"
        )
        if name not in done:
            for other in ours(name):
                visit(other, [*way, name])
            done.add(name)

    for name in SOURCES:
        visit(name, [])


def test_parts_are_loaded_at_one_place() -> None:
    calls = [
        (name, each.lineno)
        for name, path in SOURCES.items()
        for each in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(each, ast.Attribute) and each.attr in LOADERS)
        or (isinstance(each, ast.Name) and each.id in LOADERS)
    ]
    assert [name for name, _ in calls] == [GROUND_FLOOR], (
        f"{calls}: only part() in zmqpush.py loads a module by its name"
    )


@pytest.mark.parametrize("name", PURE)
def test_what_both_ends_must_agree_on_is_pure(name: str) -> None:
    found = imports_of(f"{PARTS}.{name}") & IMPURE
    assert not found, f"{found}: sockets, clocks and files belong to who calls this"


def test_only_the_link_touches_aiozmq() -> None:
    users = [name for name in SOURCES if "aiozmq" in imports_of(name)]
    assert users == [GROUND_FLOOR], "aiozmq is unmaintained: go through zmqpush.Link"


def test_extras_are_imported_where_they_are_used() -> None:
    for name, path in SOURCES.items():
        top = ast.parse(path.read_text(encoding="utf-8"))
        at_start = {
            imported.partition(".")[0]
            for statement in top.body
            if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Try))
            for imported in imports(statement)
        }
        assert not at_start & AS_EXTRAS, (
            f"{name}: import it in the function that needs it; most do without"
        )


def test_every_part_that_an_option_names_is_there_and_checks_the_options() -> None:
    for part, _ in zmqpush.build_parser("")._part_of.values():
        module = importlib.import_module(f"{PARTS}.{part}")
        assert callable(module.check), f"{part} needs check(options), see zmqlines/spool.py"


def test_every_sink_is_in_the_list() -> None:
    files = {path.stem for path in TOP.glob(f"{PARTS}/sinks/*.py")} - {"__init__", "contract"}
    listed = {kind.__name__.rpartition(".")[2] for kind in sinks.ALL}
    assert files == listed, "a sink is a file in zmqlines/sinks and a place in sinks.ALL"
    for kind in sinks.ALL:
        for function in ("add_options", "check", "sinks"):
            assert callable(getattr(kind, function)), f"{kind.__name__} needs {function}()"


def test_the_folder_has_the_version_of_the_program() -> None:
    assert importlib.import_module(PARTS).__version__ == zmqpush.__version__


def test_the_architecture_page_has_a_sentence_for_each_file() -> None:
    page = (TOP / "docs/architecture.md").read_text(encoding="utf-8")
    files = [str(path.relative_to(TOP)) for path in SOURCES.values()]
    missing = [f for f in files if f"| `{f}` |" not in page and f != f"{PARTS}/__init__.py"]
    assert not missing, f"{missing}: say in docs/architecture.md what it is, in one sentence"


# ---- sizes ------------------------------------------------------------------------------------


def table_of_options() -> int:
    """Lines of the tables of options in zmqpush.py."""
    text = SOURCES[GROUND_FLOOR].read_text(encoding="utf-8")
    return sum(
        table.partition("# fmt: on")[0].count("\n") for table in text.split("# fmt: off")[1:]
    )


def tracked() -> list[Path]:
    """The files of the checkout, as git or, without it, the folder has them."""
    listed = subprocess.run(
        ["env", "git", "-C", str(TOP), "ls-files"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        return [path for pattern, _ in SIZES for path in TOP.glob(pattern)]
    return [TOP / name for name in listed.stdout.splitlines() if (TOP / name).is_file()]


def test_no_file_is_larger_than_a_reader_can_hold() -> None:
    too_large = []
    for path in tracked():
        most = next((most for pattern, most in SIZES if path in set(TOP.glob(pattern))), None)
        if most is None or "bench" in path.parts:
            continue
        count = len(path.read_text(encoding="utf-8").splitlines())
        count -= table_of_options() if path == SOURCES[GROUND_FLOOR] else 0
        if count > most:
            too_large.append(f"{path.relative_to(TOP)} has {count} lines, {most} at most")
    assert not too_large, f"{too_large}: which of its matters can have a file of its own?"


# ---- the tests --------------------------------------------------------------------------------


def test_the_tests_have_a_room_for_each_of_the_house() -> None:
    folders = {path.name for path in (TOP / "tests").iterdir() if path.is_dir()}
    rooms = folders - OUTSIDE - {"__pycache__"}
    assert rooms == set(ROOMS), "say in ROOMS what a new room is about, or use one of these"
    for room in rooms:
        assert (TOP / "tests" / room / "__init__.py").exists(), f"tests/{room} is no package yet"


def test_no_room_has_a_conftest_of_its_own() -> None:
    found = sorted((TOP / "tests").glob("**/conftest.py"))
    assert found == [TOP / "tests/conftest.py"], (
        "fixtures of a room stand in its fixtures.py, which tests/conftest.py names"
    )


def test_no_helper_is_named_like_a_module_of_python() -> None:
    """pull_printer.py runs as a script: what lies beside it comes first."""
    for path in (TOP / "tests/support").glob("*.py"):
        found = importlib.util.find_spec(path.stem) if path.stem != "__init__" else None
        assert found is None, f"tests/support/{path.name} hides {path.stem}: name it otherwise"

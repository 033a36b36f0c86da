"""Measure zmqpush beside rsyslog, C and the classic way, on this machine, in one run.

    python -m tests.bench.bench [--runs 5] [--lines 1000000] [--only SECTION ...]

Everybody sends the same events from the same input to the same C sink, and collectors are all sent
them by the same C program. First it is checked that all shippers deliver what they are given; then
the sections of the files named so are measured and printed one by one. A full run also writes them
to docs/figures.md: the README takes its figures from there.

It wants a C compiler, libzmq's headers, rsyslog with its modules omczmq and imczmq, redis-server,
and a machine on which nothing else is going on.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.bench import (
    curve_sections,
    memory_sections,
    omprog_sections,
    pull_sections,
    report,
    sections,
    spool_sections,
)
from tests.bench.check import check
from tests.bench.inputs import make_inputs
from tests.bench.measure import BenchError, say
from tests.bench.peers import BENCH, build, make_peers
from tests.bench.sections import Bench

RUNS = 5
LINES = 1_000_000
CHECKED_LINES = 10_000
FIGURES = BENCH.parent.parent / "docs/figures.md"
#: In the order of the report.
SECTIONS = {
    **sections.SECTIONS,
    **spool_sections.SECTIONS,
    **omprog_sections.SECTIONS,
    **pull_sections.SECTIONS,
    **curve_sections.SECTIONS,
    **memory_sections.SECTIONS,
}


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS, help=f"runs of each measurement ({RUNS})")
    parser.add_argument("--lines", type=int, default=LINES, help=f"lines of each input ({LINES:,})")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to measure"
    )
    return parser.parse_args()


def prepare(folder: Path, lines: int, runs: int) -> Bench:
    """Build the tools, write the inputs and see that everybody does the job.

    Raises:
        BenchError: somebody does not.
    """
    say("building and writing the inputs")
    tools = build(folder)
    peers = make_peers(tools)
    inputs = make_inputs(folder, lines)
    for source in inputs:
        for peer in peers:
            say(f"checking {peer.name}, {source.name}")
            check(peer, tools, source.head(min(CHECKED_LINES, lines)))
    return Bench(tools, peers, inputs, lines, runs)


def measure(options: argparse.Namespace) -> None:
    """Measure the sections that were asked for, print each, and keep those of a full run."""
    full = options.runs >= RUNS and options.lines >= LINES and set(options.only) == set(SECTIONS)
    with tempfile.TemporaryDirectory(prefix="zmqpush-bench-") as name:
        bench = prepare(Path(name), options.lines, options.runs)
        machine = report.describe_machine(bench.tools)
        print(machine + "\n", flush=True)
        texts = []
        for section in options.only:
            texts.append(report.render(SECTIONS[section](bench)))
            print(texts[-1], flush=True)
    if full:
        command = f"python -m tests.bench.bench --runs {options.runs} --lines {options.lines}"
        FIGURES.write_text("\n".join([report.preamble(command, machine), *texts]))


def main() -> None:
    """Run the bench; status 1 and one message when something does not do its work."""
    # Leave nothing behind when somebody ends us either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by SIGTERM"))
    try:
        measure(parse_options())
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")


if __name__ == "__main__":
    main()

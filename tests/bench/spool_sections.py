"""What the bench measures of `--spool`: with it beside without, and a backlog on the disk."""

from __future__ import annotations

from functools import partial
from typing import Callable

from tests.bench import report
from tests.bench.measure import interleave, median, sync_rate
from tests.bench.peers import BATCH
from tests.bench.report import Row, Section, at_least
from tests.bench.sections import Bench, build_and_drain, compare

#: The backlog grows with --lines, to 500 MB for a million of them. It is built less often than
#: the rest is done: what it is about differs little from run to run.
BACKLOG_BYTES_A_LINE = 500
BACKLOG_RUNS = 2
MEMORY_LIMIT = 100_000_000


def throughput(bench: Bench) -> Section:
    """The plain input, with a spool and without, to a sink that takes all it can get."""
    peers, source = bench.peers, bench.inputs[0]
    comparisons = [
        ("one message a line", peers.spool, peers.zmqpush, 0.5),
        (f"--batch {BATCH}", peers.spool_batch, peers.zmqpush_batch, None),
    ]
    rows, details = compare(bench, "spool", source, comparisons)
    return Section("A spool", rows, [*details, disk_speed(bench)])


def backlog(bench: Bench) -> Section:
    """What a backlog on disk takes of memory, and how fast it drains."""
    job = partial(build_and_drain, bench, bench.peers.spool, BACKLOG_BYTES_A_LINE)
    runs = interleave("backlog in a spool", min(BACKLOG_RUNS, bench.runs), {"": job})[""]
    size, peak = runs[0].input_bytes, max(run.final_peak_rss for run in runs)
    rates = [median(rates) for rates in zip(*(run.drain_rates for run in runs))]
    rows = [
        Row(
            "memory at its peak, drained",
            report.memory(peak),
            f"before the input {report.memory(median(run.idle_rss for run in runs))}",
            target=f"< {report.memory(MEMORY_LIMIT)}",
            reached=peak < MEMORY_LIMIT,
        ),
        at_least("drain, last tenth", rates[-1], "first tenth", rates[0], None, report.rate),
        Row(
            "disk when drained",
            report.memory(median(run.final_spooled for run in runs)),
            f"when read {report.memory(median(run.spooled for run in runs))}",
        ),
    ]
    details = [
        f"Read and journaled in {median(run.read_s for run in runs):.1f} s, while there was no "
        f"collector, and then drained at, by tenths: {', '.join(map(report.rate, rates))}.",
        f"{len(runs)} runs, after one that does not count; of the memory, the most of them.",
        disk_speed(bench),
    ]
    return Section(f"A backlog of {report.memory(size)} of input in a spool", rows, details)


def disk_speed(bench: Bench) -> str:
    """A sentence on what the disk can do."""
    rates = [sync_rate(bench.tools.folder) for _ in range(bench.runs)]
    return (
        f"In the folder of the spool a page is written and synced (fdatasync) "
        f"{report.rate(median(rates))}, {report.rate(min(rates))} to {report.rate(max(rates))}."
    )


SECTIONS: dict[str, Callable[[Bench], Section]] = {
    "spool": throughput,
    "spool-backlog": backlog,
}

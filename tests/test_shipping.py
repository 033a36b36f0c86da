"""The first thing: lines go in, events come out."""

from collections.abc import Callable

from tests.support.collector import Collector
from tests.support.programs import Shipper


def test_every_line_is_an_event_and_the_summary_counts_them(
    collector: Collector, ship: Callable[..., Shipper]
) -> None:
    shipper = ship("-c", collector.endpoint)
    result = shipper.finish(b'say "hi"\nbye\n')
    assert collector.receive(2) == [
        b'{"message":"say \\"hi\\"","type":"syslog","@pid":%d}' % shipper.pid,
        b'{"message":"bye","type":"syslog","@pid":%d}' % shipper.pid,
    ]
    assert (result.status, result.processed, result.stderr) == (0, 2, "")

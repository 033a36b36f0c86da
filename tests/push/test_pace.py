"""When what is written is read at once, and when lines are gathered before. Pure."""

from __future__ import annotations

import pytest

import zmqpush

BOOTED_LONG_AGO_S = 100_000.0
WRITE = 100  # bytes


class Source:
    """Writes `writes_per_s` times a second, `size` bytes each; a write wakes who waits for it."""

    def __init__(self) -> None:
        self.pace = zmqpush.Pace()
        self.now = BOOTED_LONG_AGO_S

    def write(self, writes_per_s: float, size: int, wakes: int = 100) -> list[float]:
        """How long the reader pauses at each of the next `wakes`."""
        pauses = []
        for _ in range(wakes):
            self.now += 1 / writes_per_s
            pause_s = self.pace.woken(self.now)
            self.now += pause_s
            self.pace.took(size * (1 + int(pause_s * writes_per_s)))
            pauses.append(pause_s)
        return pauses


@pytest.mark.parametrize("writes_per_s", [0.001, 1, 100, 1000, 1900])
@pytest.mark.parametrize("size", [1, WRITE, 65536])
def test_a_source_that_writes_seldom_is_read_at_once(writes_per_s: float, size: int) -> None:
    assert set(Source().write(writes_per_s, size)) == {0}


@pytest.mark.parametrize("writes_per_s", [2500, 10_000, 100_000])
@pytest.mark.parametrize("size", [1, 30, WRITE])
def test_lines_written_thousands_of_times_a_second_are_gathered(
    writes_per_s: float, size: int
) -> None:
    pauses = Source().write(writes_per_s, size)
    assert pauses[0] == 0
    gathering = pauses[2 * zmqpush.Pace.WAKES :]
    assert min(gathering) >= zmqpush.Pace.SHORTEST_S
    assert max(gathering) <= zmqpush.Pace.LONGEST_S


@pytest.mark.parametrize("writes_per_s", [2500, 10_000, 30_000, 100_000])
@pytest.mark.parametrize("size", [WRITE, 1000, 4096])
def test_what_is_gathered_does_not_fill_the_pipe(writes_per_s: float, size: int) -> None:
    pauses = Source().write(writes_per_s, size, wakes=1000)
    assert max(pauses) * writes_per_s * size <= 32 * 1024


@pytest.mark.parametrize("writes_per_s", [100, 1000, 5000, 20_000])
def test_bulk_is_read_without_a_pause(writes_per_s: float) -> None:
    assert set(Source().write(writes_per_s, 65536)) == {0}


def test_a_source_that_grows_quiet_is_read_at_once_again() -> None:
    source = Source()
    assert source.write(10_000, WRITE)[-1] > 0
    assert set(source.write(10, WRITE)[2 * zmqpush.Pace.WAKES :]) == {0}


def test_a_source_that_has_been_quiet_is_gathered_again() -> None:
    source = Source()
    source.write(10, WRITE)
    assert source.write(10_000, WRITE)[-1] > 0


def test_gathered_lines_turning_into_bulk_are_read_without_a_pause() -> None:
    source = Source()
    source.write(10_000, WRITE)
    assert source.write(5_000, 65536)[-1] == 0

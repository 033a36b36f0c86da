"""Who is connected to a collector, and who was turned away: told by libzmq's monitor. Pure.

libzmq tells the descriptor of a connection when it begins and ends, but not whose handshake has
succeeded. Who is turned away because its socket does not fit, or because it does not speak
ZeroMQ's protocol of today, is only seen to go without one.
"""

from __future__ import annotations


class Peers:
    """Connections, by their descriptors."""

    def __init__(self) -> None:
        self.standing: set[int] = set()
        self.turned_away = 0  # so many, at least
        self._young: set[int] = set()  # of those that stand: their handshake may have succeeded
        self._greeted = 0  # so many handshakes of young ones, standing or gone, have
        self._gone = 0  # so many young ones have gone, and may have succeeded before
        self._failed = False  # the handshake of the next one that goes, which was told

    def came(self, descriptor: int) -> None:
        """A connection stands."""
        self.standing.add(descriptor)
        self._young.add(descriptor)

    def greeted(self) -> None:
        """A handshake has succeeded."""
        self._greeted += 1
        self._settle()

    def failed(self) -> None:
        """A handshake has failed, for a reason that was told; then the connection ends."""
        self._failed = True

    def went(self, descriptor: int) -> None:
        """A connection has ended."""
        self.standing.discard(descriptor)
        failed, self._failed = self._failed, False
        if descriptor not in self._young:
            return
        self._young.discard(descriptor)
        if not failed:
            self._gone += 1
        self._settle()

    def _settle(self) -> None:
        """Decide what can be."""
        if self._greeted >= len(self._young) + self._gone:  # all of them
            self._young.clear()
        elif not self._greeted or not self._young:
            self.turned_away += self._gone - self._greeted
        else:
            return  # which ones will be seen when the others have greeted, or gone
        self._greeted = self._gone = 0

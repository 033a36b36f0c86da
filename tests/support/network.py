"""Two hosts and a cable between them."""

from __future__ import annotations

import subprocess

from tests.support.waiting import DEADLINE_S


class Network:
    """Two hosts (network namespaces) and a cable (veth) between them."""

    SHIPPER, COLLECTOR = "10.21.20.1", "10.21.20.2"

    def __init__(self, name: str) -> None:
        self.shipper, self.collector = f"{name}-s", f"{name}-c"

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=DEADLINE_S)

    def set_up(self) -> None:
        for host in (self.shipper, self.collector):
            self.ip("netns", "add", host)
        peer = ("type", "veth", "peer", "name", "cable", "netns", self.collector)
        self.ip("-n", self.shipper, "link", "add", "cable", *peer)
        for host, address in ((self.shipper, self.SHIPPER), (self.collector, self.COLLECTOR)):
            self.ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
            self.set_cable(host, "up")

    def set_cable(self, host: str, state: str) -> None:
        self.ip("-n", host, "link", "set", "cable", state)

    def set_patience(self, host: str, tries: int) -> None:
        """How often TCP sends again there what nobody acknowledges, before it gives up."""
        for name in ("tcp_retries2", "tcp_orphan_retries"):
            words = ("sysctl", "-qw", f"net.ipv4.{name}={tries}")
            command = [*self.inside(host), *words]
            subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)

    @staticmethod
    def inside(host: str) -> list[str]:
        """The beginning of a command that runs there."""
        return ["ip", "netns", "exec", host]

    def remove(self) -> None:
        for host in (self.shipper, self.collector):
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)

"""What listens at a TCP endpoint."""

from __future__ import annotations

import socket


def address_of(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint[len("tcp://") :].partition(":")
    return host, int(port)


def is_listening(endpoint: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address_of(endpoint)) == 0

"""`--bind`: let collectors connect."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import stat
from typing import Any

import zmq

import zmqpush


def check(options: argparse.Namespace) -> None:
    """What does not go with it says so itself."""


async def bind(transport: Any, endpoints: list[str]) -> None:
    """Bind the socket of an aiozmq transport. Raises OSError, whose `filename` is the endpoint."""
    for endpoint in endpoints:
        try:
            refuse_to_displace(endpoint)
            bound = await transport.bind(endpoint)
        except OSError as error:
            why = zmq.strerror(error.errno or errno.EINVAL)
            raise OSError(error.errno, why, endpoint) from None
        if endpoint.endswith(":*"):
            zmqpush.say(f"bound to {bound}")


def refuse_to_displace(endpoint: str) -> None:
    """Raise OSError where an ipc endpoint is in use, or no socket: libzmq would remove it."""
    path = endpoint[len("ipc://") :]
    if endpoint.startswith("ipc://") and os.path.exists(path):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "it is there, and not a socket")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                raise OSError(errno.EADDRINUSE, "")

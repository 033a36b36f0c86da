#!/usr/bin/env python3
"""A collector to look at: prints each message that arrives at a PULL socket as a line.

The endpoint it is bound to is the first line on stderr: `--bind tcp://127.0.0.1:*` takes a free
port. Ends after -n messages, at SIGINT or SIGTERM, and when nobody reads its output any more.
"""

import argparse
import contextlib
import itertools
import os
import signal
import sys
from typing import Optional

import zmq


def print_messages(endpoint: str, limit: Optional[int]) -> None:
    """Print `limit` messages (None: all that ever come), the frames of each joined by a blank."""
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.bind(endpoint)
        print(socket.get_string(zmq.LAST_ENDPOINT), file=sys.stderr, flush=True)
        for _ in itertools.repeat(None) if limit is None else range(limit):
            sys.stdout.buffer.write(b" ".join(socket.recv_multipart()) + b"\n")
            sys.stdout.buffer.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bind", metavar="ENDPOINT", default="tcp://127.0.0.1:2120")
    parser.add_argument("-n", metavar="N", type=int, help="end after N messages")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            print_messages(options.bind, options.n)
        except BrokenPipeError:
            # Python flushes stdout once more at its end: let that go somewhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

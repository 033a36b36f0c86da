"""What zmqpush-watermark.py does: it prints the watermarks that a shipper would have.

They are asked of a socket set up as zmqpush.py sets up its own. It goes nowhere: nothing is
bound or connected.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import zmq

import zmqpush

DESCRIPTION = (
    "Print the watermarks that a zmqpush.py with the same options, or variables, would have."
)
TCP_WMEM = Path("/proc/sys/net/ipv4/tcp_wmem")  # tcp(7): least, default and most, in bytes


async def watermarks(options: argparse.Namespace) -> list[str]:
    """The lines to print."""
    options.bind = options.connect = []
    options.curve = None
    link = zmqpush.Link(options, zmqpush.make_format(options, pid=0))
    await link.open()
    low, high = link.transport.get_write_buffer_limits()
    lines = [f"Low watermark: {low}", f"High watermark: {high}"]
    if options.all:
        sndbuf = link.transport.getsockopt(zmq.SNDBUF)
        lines += [
            f"SNDHWM: {link.transport.getsockopt(zmq.SNDHWM)}",
            f"SNDBUF: {sndbuf}" + " (left to the kernel)" * (sndbuf < 0),
            f"tcp_wmem: {TCP_WMEM.read_text().strip()}",
        ]
    await link.close()
    return lines


def main() -> None:
    """Run the program."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, zmqpush.SIGNALS)  # which a launcher has blocked
    parser = zmqpush.build_parser(DESCRIPTION)
    parser.add_argument(
        "--all", action="store_true", default=False, help="also what libzmq and the kernel hold"
    )
    parser.epilog = str(parser.epilog).partition("\n")[0]
    options = zmqpush.parse_options(parser, sys.argv[1:])
    lines = asyncio.run(watermarks(options))
    try:
        os.write(1, "".join(f"{line}\n" for line in lines).encode())
    except BrokenPipeError:  # nobody wants to know
        return
    except OSError as error:
        zmqpush.say(f"cannot write to standard output: {error.strerror}")
        sys.exit(1)

"""Collect events into a file, and do nothing else: the loop that anybody would write with pyzmq.

    pull_bare.py ENDPOINT FILE MESSAGES

A message is a line, whatever is in it: nothing is checked, arrays are not taken apart. Ends when
it has so many messages.
"""

import sys

import zmq


def main() -> None:
    """Receive and write."""
    endpoint, path, messages = sys.argv[1:]
    pull = zmq.Context().socket(zmq.PULL)
    pull.bind(endpoint)
    with open(path, "wb") as file:
        for _ in range(int(messages)):
            file.write(pull.recv() + b"\n")


if __name__ == "__main__":
    main()

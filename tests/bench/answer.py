"""Answer rsyslog, and do nothing else: what its dialogue costs any program in Python.

    answer.py [--transactions]

Ends at the end of input. It takes a line for a message, which is so in the bench.
"""

import sys


def main() -> None:
    """Say OK to each line, or with --transactions DEFER_COMMIT to those that are no marks."""
    marks = {b"BEGIN TRANSACTION\n": b"OK\n", b"COMMIT TRANSACTION\n": b"OK\n"}
    otherwise = b"DEFER_COMMIT\n" if "--transactions" in sys.argv else b"OK\n"
    with open(0, "rb") as lines, open(1, "wb", buffering=0) as answers:
        answers.write(b"OK\n")
        for line in lines:
            answers.write(marks.get(line, otherwise))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Print the watermarks that a zmqpush.py with the same options, or variables, would have.

A hyphen cannot be imported: what it does is in zmqlines/watermark.py.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # Python's -I leaves it out
keeps_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # beside the programs
import zmqpush  # first: it says what is missing

sys.dont_write_bytecode = keeps_bytecode
del sys.path[0]

if __name__ == "__main__":
    try:
        watermark = zmqpush.part("watermark")
    except ImportError as missing:
        zmqpush.fail(str(missing))
    watermark.main()

"""What the programs do beyond the ground floor, zmqpush.py: a matter, a file.

It depends on the ground floor and on itself downwards, never on a program (docs/architecture.md).
"""

__version__ = "1.1.0"  # as that of zmqpush.py, which loads no other

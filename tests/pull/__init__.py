"""The collector, zmqpull.py."""

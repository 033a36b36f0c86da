"""Acknowledged delivery, from `zmqpush.py --ack` to `zmqpull.py --ack`."""

"""The shipper, zmqpush.py: from its command line to the collector."""

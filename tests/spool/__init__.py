"""The journal on disk, `--spool`: zmqpush.py's promise that lines outlive it."""

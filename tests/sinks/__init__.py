"""Where a collector puts events; all sinks fulfil one contract."""

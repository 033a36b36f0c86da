"""Everything is killed, stopped and cut off, at random or by plan."""

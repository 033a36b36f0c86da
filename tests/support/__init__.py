"""What the tests share, a matter a file.

Nothing here sleeps: who waits, waits for an event, with a deadline after which the test fails.
"""

"""The answers that rsyslog asks for, `--omprog`."""

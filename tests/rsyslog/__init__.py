"""The plain shipper as a program of a real rsyslogd."""

"""The tests: a folder for each room of the house, and `support` for what they share."""

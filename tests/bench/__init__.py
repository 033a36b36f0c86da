"""The bench: the programs side by side with their peers, in one run."""

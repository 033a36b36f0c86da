"""CURVE: keys, who may speak, and who is refused."""

"""The documents: their commands do what they show, and what they say is so."""

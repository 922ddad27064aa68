"""Makes an artifact of a function: its pickle, local modules, signature and requirements."""

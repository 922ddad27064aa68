"""When to send a batch and how large: pure decisions, no I/O, a clock passed in."""

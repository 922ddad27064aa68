"""Decisions on the time and the size of batches: pure, without I/O, with a clock passed in."""

"""`make attack`: fuzzers against a cluster that serves honest callers at the same time."""

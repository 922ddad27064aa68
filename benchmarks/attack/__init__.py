"""`make attack`: fuzzers against a cluster that serves honest callers all along."""

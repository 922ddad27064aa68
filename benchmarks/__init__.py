"""Benchmarks of the query path against raw echoes and peers; not part of the distribution."""

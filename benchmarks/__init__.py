"""Measures the query path beside its limit and its peers; not part of the distribution."""

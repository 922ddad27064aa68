"""Metrics and probes of a frontend."""

"""Captures a function for a replica: a pickle, local modules, and versions of packages."""

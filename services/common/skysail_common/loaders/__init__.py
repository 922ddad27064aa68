"""Loaders: each makes a function of the files of one format, for the SDK and for replicas."""

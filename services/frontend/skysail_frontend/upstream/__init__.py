"""Connections to management and to model servers."""

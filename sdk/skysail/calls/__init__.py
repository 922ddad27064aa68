"""Calls to management, by subject."""

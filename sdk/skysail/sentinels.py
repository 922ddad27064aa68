"""Sentinels for arguments."""

from typing import Any


class _NotGiven:
    def __repr__(self) -> str:
        return "<not given>"


NOT_GIVEN: Any = _NotGiven()
"""Default of an argument for which None is a value."""

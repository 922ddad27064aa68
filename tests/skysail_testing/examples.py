"""Numbers of examples of property tests."""

from hypothesis import settings

THOROUGH = 100
"""Default number of examples of the profile `thorough`."""


def examples(thorough: int) -> int:
    """Scale a number of examples of the profile `thorough` to the present profile."""
    return max(5, thorough * settings().max_examples // THOROUGH)

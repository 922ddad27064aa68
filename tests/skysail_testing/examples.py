"""How many examples a property test tries."""

from hypothesis import settings

THOROUGH = 100
"""As many as the profile `thorough` tries where a test names no number."""


def examples(thorough: int) -> int:
    """Return a number of examples: this with the profile `thorough`, fewer with a quicker one."""
    return max(5, thorough * settings().max_examples // THOROUGH)

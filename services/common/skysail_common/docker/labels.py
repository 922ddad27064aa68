"""Labels that mark the containers, images and networks of Skysail on a Docker engine."""

from collections.abc import Mapping, Sequence

LABEL = "ai.skysail."
"""Prefix of Skysail's labels."""


def labels(values: Mapping[str, str]) -> dict[str, str]:
    """Return the labels with the prefix of Skysail."""
    return {f"{LABEL}{name}": value for name, value in values.items()}


def own_labels(values: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that have the prefix of Skysail, without the prefix."""
    return {
        name.removeprefix(LABEL): value for name, value in values.items() if name.startswith(LABEL)
    }


def label_filter(values: Mapping[str, str], *names: str) -> Mapping[str, Sequence[str]]:
    """Return a filter for containers or images.

    Args:
        values: Labels with their values.
        names: Labels with any value.
    """
    wanted = [f"{name}={value}" for name, value in labels(values).items()]
    return {"label": [*wanted, *(f"{LABEL}{name}" for name in names)]}

"""The labels by which whatever is ours on a Docker engine is found again."""

from collections.abc import Mapping, Sequence

LABEL = "ai.skysail."
"""What the labels of ours begin with."""


def labels(values: Mapping[str, str]) -> dict[str, str]:
    """Return labels under our prefix."""
    return {f"{LABEL}{name}": value for name, value in values.items()}


def own_labels(values: Mapping[str, str]) -> dict[str, str]:
    """Return the labels under our prefix, without it."""
    return {
        name.removeprefix(LABEL): value for name, value in values.items() if name.startswith(LABEL)
    }


def label_filter(values: Mapping[str, str], *names: str) -> Mapping[str, Sequence[str]]:
    """Return what selects containers or images that have these labels, and some by these names."""
    wanted = [f"{name}={value}" for name, value in labels(values).items()]
    return {"label": [*wanted, *(f"{LABEL}{name}" for name in names)]}

"""Groups of columns that travel together."""

from collections.abc import Hashable, Sequence


def groups_of(keys: Sequence[Hashable]) -> tuple[tuple[int, ...], ...]:
    """Return the indices of equal keys, a group for each key, in the order of the first of each."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return tuple(map(tuple, groups.values()))

"""Finds container managers by name: ours, and installed ones by entry point."""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from skysail_common.errors import InvalidInput
from skysail_management.containers.base import ContainerManager

if TYPE_CHECKING:
    from skysail_management.settings import ManagementSettings

ENTRY_POINT_GROUP = "skysail.container_managers"


class ContainerManagerFactory(Protocol):
    """Makes a container manager from the settings of management."""

    def __call__(self, settings: "ManagementSettings") -> ContainerManager:
        """Return a manager that is not open yet."""
        ...


def find_container_manager(name: str) -> ContainerManagerFactory:
    """Return the factory of this name.

    Raises:
        InvalidInput: none is installed under this name; the message lists those that are.
    """
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise InvalidInput(
            f"no container manager is called {name!r}; installed are {', '.join(sorted(found))}"
        )
    factory: ContainerManagerFactory = found[name].load()
    return factory

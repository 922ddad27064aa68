"""Discovery of container managers by entry point."""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from skysail_common.errors import FailedPrecondition, InvalidInput
from skysail_common.extras import missing_extra
from skysail_management.containers.base import ContainerManager

if TYPE_CHECKING:
    from skysail_management.settings import ManagementSettings

ENTRY_POINT_GROUP = "skysail.container_managers"


class ContainerManagerFactory(Protocol):
    """Creates a container manager from the settings of management."""

    def __call__(self, settings: "ManagementSettings") -> ContainerManager:
        """Return a manager that is not open."""
        ...


def find_container_manager(name: str) -> ContainerManagerFactory:
    """Return the factory of this name.

    Raises:
        InvalidInput: no manager of this name is installed; the message lists the installed ones.
        FailedPrecondition: a required package is not installed.
    """
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise InvalidInput(
            f"cannot find container manager {name!r}; installed are {', '.join(sorted(found))}"
        )
    try:
        factory: ContainerManagerFactory = found[name].load()
    except ModuleNotFoundError as error:
        raise missing_extra(error) or FailedPrecondition(
            f"cannot load container manager {name!r}: package {error.name!r} is not installed"
        ) from None
    return factory

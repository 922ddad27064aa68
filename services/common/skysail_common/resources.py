"""Resources of one replica, as a value that travels whole from the SDK to the container manager."""

from dataclasses import dataclass, replace

from skysail_common.errors import InvalidInput

MAX_CPUS = 1024
MIN_GPUS = 0.01
"""Smallest fraction of a GPU."""


@dataclass(frozen=True)
class Resources:
    """Resources of one replica; 0 leaves the choice to the server."""

    num_threads: int = 0
    """Threads of the numeric libraries; 0 for as many as `cpus`, else as the container manager
    chooses."""
    memory_mib: int = 0
    """Memory in MiB; 0 for no limit."""
    cpus: float = 0.0
    """CPUs, including fractions of one; 0 for the default of the container manager."""
    gpus: float = 0.0
    """GPUs that no other replica uses, or below 1 a fraction of one that others share; 0 for the
    default of the container manager."""

    def check(self) -> None:
        """Check that a replica can have these resources.

        Raises:
            InvalidInput: a value is out of range.
        """
        # A comparison with NaN is false, so that this form rejects it too.
        if not (0 <= self.cpus <= MAX_CPUS and 0 <= self.gpus <= MAX_CPUS):
            raise InvalidInput(f"cpus and gpus of a replica must be from 0 to {MAX_CPUS}")
        if self.gpus > 1 and self.gpus % 1:
            raise InvalidInput(
                f"cannot reserve {self.gpus:g} GPUs for a replica: it can have whole GPUs or a "
                "fraction of one; give a whole number, or a number below 1"
            )
        if 0 < self.gpus < MIN_GPUS:
            raise InvalidInput(
                f"cannot reserve {self.gpus:g} of a GPU: the smallest fraction is {MIN_GPUS}"
            )


@dataclass(frozen=True)
class ResourceChanges:
    """Resources that the caller of a deploy gives; None leaves a value as it is deployed."""

    num_threads: int | None = None
    memory_mib: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def given(self) -> dict[str, int | float]:
        """Return the values that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def apply(self, resources: Resources) -> Resources:
        """Return the resources with the given values in place of theirs."""
        return replace(resources, **self.given())  # type: ignore[arg-type]

    def check(self) -> None:
        """Check that a replica can have the given values.

        Raises:
            InvalidInput: a value is out of range.
        """
        self.apply(Resources()).check()

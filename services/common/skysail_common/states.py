"""States that all services share; numbers equal those of the protos."""

import enum


class ReplicaState(enum.IntEnum):
    """Life-cycle state of a replica; numbers equal those of `skysail.v1.ReplicaState`."""

    PENDING = 1
    STARTING = 2
    READY = 3
    DRAINING = 4
    STOPPED = 5
    FAILED = 6

    @property
    def is_live(self) -> bool:
        """True while a container holds the replica or starts to."""
        return self in (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING)


class ExitCode(enum.IntEnum):
    """Exit statuses of service processes; numbers follow sysexits.h if it has one."""

    OK = 0
    FAILED = 1
    USAGE = 2
    LOAD_FAILED = 65
    """A model server cannot load its artifact or pass its warm-up; a retry is useless."""
    STUCK = 67
    """A model server ended itself because the user's function did not return."""
    OUT_OF_MEMORY = 68
    """A model server ended itself because the user's function ran out of memory in several batches."""
    UNAVAILABLE = 69
    """A service that the process needs did not answer; a retry may help."""
    UNHEALTHY = 70
    """A model server ended itself because the model's own `check_health` failed."""

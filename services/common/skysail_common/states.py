"""States that people read, shared by services; numbers are those of the protos."""

import enum


class ReplicaState(enum.IntEnum):
    """Life-cycle of a replica; numbers are those of `skysail.v1.ReplicaState`."""

    PENDING = 1
    STARTING = 2
    READY = 3
    DRAINING = 4
    STOPPED = 5
    FAILED = 6

    @property
    def is_live(self) -> bool:
        """True while a container holds it or is about to."""
        return self in (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING)


class ExitCode(enum.IntEnum):
    """How a service process ends; numbers follow sysexits.h where it has one."""

    OK = 0
    FAILED = 1
    USAGE = 2
    LOAD_FAILED = 65
    """A model server cannot load its artifact or pass its warm-up; trying again is useless."""
    STUCK = 67
    """The user's function did not return: a model server ended itself."""
    OUT_OF_MEMORY = 68
    """The user's function had no memory in several batches: a model server ended itself."""
    UNAVAILABLE = 69
    """Something it needs did not answer; trying again may help."""

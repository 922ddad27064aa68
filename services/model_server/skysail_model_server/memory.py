"""The limit of the memory that a replica may allocate, and the words for reaching it."""

import resource

from skysail_common.errors import SkysailError

_MIB = 1024 * 1024


def limit_memory(limit_mib: int) -> None:
    """Limit the memory of this process; 0 leaves it as it is."""
    if limit_mib:
        # Counts what is written, not address space that libraries only reserve.
        resource.setrlimit(resource.RLIMIT_DATA, (limit_mib * _MIB, limit_mib * _MIB))


def memory_advice() -> str:
    """Return what to do about a lack of memory, to be put after the error; empty without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit == resource.RLIM_INFINITY:
        return ""
    return f"; the replica may have {limit // _MIB} MiB, raise memory_mib if it needs more"


def out_of_memory(num_batches: int) -> SkysailError:
    """Return why a replica ends that can answer no query."""
    return SkysailError(
        f"cannot answer queries: the function had no memory for {num_batches} batches in a row, nor "
        f"for its example{memory_advice()}"
    )

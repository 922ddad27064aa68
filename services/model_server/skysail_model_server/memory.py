"""The memory limit of a replica, and the error texts for reaching it."""

import resource

from skysail_common.errors import SkysailError

_MIB = 1024 * 1024


def limit_memory(limit_mib: int) -> None:
    """Limit the memory of this process; 0 sets no limit."""
    if limit_mib:
        # RLIMIT_DATA counts writable memory, but not the address space that libraries reserve.
        resource.setrlimit(resource.RLIMIT_DATA, (limit_mib * _MIB, limit_mib * _MIB))


def memory_advice() -> str:
    """Return the fix for a lack of memory, for the end of an error; empty without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit == resource.RLIM_INFINITY:
        return ""
    return f"; the limit of the replica is {limit // _MIB} MiB, raise memory_mib if it needs more"


def out_of_memory(num_batches: int) -> SkysailError:
    """Return the error for a replica that ends because no query finds memory."""
    return SkysailError(
        f"cannot answer queries: the function ran out of memory in {num_batches} batches in a row, "
        f"and in its example{memory_advice()}"
    )

"""Options by which frontends serve a model version; operators change them while it serves."""

import enum
from dataclasses import dataclass

from skysail_common.errors import InvalidInput

MAX_BATCH_SIZE = 65_536


class PolicyName(enum.Enum):
    """The batching policy; values equal those of `skysail.v1.BatchingPolicy` in lower case."""

    HYBRID = "hybrid"
    FIXED = "fixed"
    AIMD = "aimd"
    QUANTILE = "quantile"
    EAGER = "eager"


@dataclass(frozen=True)
class ServingOptions:
    """The choices of operators for a model version."""

    max_batch_size: int = 64
    """Largest number of rows of a batch."""
    policy: PolicyName = PolicyName.HYBRID
    max_queue_delay_s: float | None = None
    """Longest wait for more queries while a replica is free; the policy decides if None."""
    preferred_batch_sizes: tuple[int, ...] = ()
    """Batch sizes, in rows and ascending, that leave at once; other sizes wait for the delay."""
    max_queue_size: int | None = None
    """Largest number of rows that wait; the setting of the frontend applies if None."""
    priority_step_s: float = 0.1
    """Head start of a priority over the next; a query that waits this long rises by one."""
    cache_ttl_s: float = 0.0
    """Longest age of a prediction that answers the same inputs again; 0 turns the cache off."""

    def check(self) -> None:
        """Check that each option is in its range.

        Raises:
            InvalidInput: one is not; the message names it.
        """
        if not 1 <= self.max_batch_size <= MAX_BATCH_SIZE:
            raise InvalidInput(f"max_batch_size must be from 1 to {MAX_BATCH_SIZE}")
        sizes = self.preferred_batch_sizes
        if sizes != tuple(sorted(set(sizes))) or any(
            not 1 <= size <= self.max_batch_size for size in sizes
        ):
            raise InvalidInput(
                f"preferred_batch_sizes must ascend and be from 1 to {self.max_batch_size}"
            )
        if self.max_queue_size is not None and self.max_queue_size < 1:
            raise InvalidInput("max_queue_size must be at least 1")
        for name in ("max_queue_delay_s", "priority_step_s", "cache_ttl_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 86_400:
                raise InvalidInput(f"{name} must be from 0 to 86400 seconds")

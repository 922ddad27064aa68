"""How frontends serve a model version; operators change it while it serves."""

import enum
from dataclasses import dataclass

from skysail_common.errors import InvalidInput

MAX_BATCH_SIZE = 65_536


class PolicyName(enum.Enum):
    """Which policy decides about batches; values of `skysail.v1.BatchingPolicy` in lower case."""

    HYBRID = "hybrid"
    FIXED = "fixed"
    AIMD = "aimd"
    QUANTILE = "quantile"
    EAGER = "eager"


@dataclass(frozen=True)
class ServingOptions:
    """What operators can choose for a model version."""

    max_batch_size: int = 64
    """Most rows of a batch."""
    policy: PolicyName = PolicyName.HYBRID
    max_queue_delay_s: float | None = None
    """Longest wait for more queries while a replica is free; None leaves it to the policy."""
    preferred_batch_sizes: tuple[int, ...] = ()
    """Sizes in rows that are sent at once, in ascending order; others wait for the delay."""
    max_queue_size: int | None = None
    """Rows that may wait; None for the setting of the frontend."""
    priority_step_s: float = 0.1
    """Head start of a priority over the next; waiting this long raises a query by one."""
    cache_ttl_s: float = 0.0
    """Longest age of a prediction that is answered again for the same inputs; 0 for none."""

    def check(self) -> None:
        """Return if the options are possible.

        Raises:
            InvalidInput: names the one that is not.
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

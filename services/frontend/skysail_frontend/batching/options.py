"""How the batches of a model are formed; changeable while it serves."""

import enum
from dataclasses import dataclass


class PolicyName(enum.Enum):
    """Which `BatchSizePolicy` decides."""

    HYBRID = "hybrid"
    FIXED = "fixed"
    AIMD = "aimd"
    QUANTILE = "quantile"
    EAGER = "eager"


@dataclass(frozen=True)
class BatchingOptions:
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

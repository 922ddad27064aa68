"""`python -m benchmarks.simulation`: the batching policies side by side, without a server."""

from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_frontend.batching.simulator import Workload, simulate

SLO_S = 0.05
NUM_REPLICAS = 4
LOADS = (0.95, 1.05, 1.2, 2.0)
POLICIES = {
    "hybrid": ServingOptions(policy=PolicyName.HYBRID),
    "eager": ServingOptions(policy=PolicyName.EAGER),
    "fixed, no delay": ServingOptions(policy=PolicyName.FIXED),
    "fixed, delay of SLO/10": ServingOptions(policy=PolicyName.FIXED, max_queue_delay_s=SLO_S / 10),
    "quantile": ServingOptions(policy=PolicyName.QUANTILE),
    "aimd": ServingOptions(policy=PolicyName.AIMD),
}


def latency_s(rows: int) -> float:
    """Return how long a batch takes: much for the first row, little for each further one."""
    return 0.010 + 0.0005 * rows


def full_load() -> float:
    """Return the rows a second of the largest batches of which two fit into the SLO."""
    rows = max(rows for rows in range(1, 65) if 2 * latency_s(rows) <= SLO_S)
    return NUM_REPLICAS * rows / latency_s(rows)


def main() -> None:
    """Print the share of queries in time for each policy and load."""
    for name, options in POLICIES.items():
        shares = [
            simulate(
                options, Workload(load * full_load(), SLO_S, latency_s, NUM_REPLICAS)
            ).share_in_time
            for load in LOADS
        ]
        print(f"| {name} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |")


if __name__ == "__main__":
    main()

"""`python -m benchmarks.simulation`: a comparison of the batching policies by simulation.

A second table, for `docs/autoscaling.md`, shows the share in time by the utilization of replicas.
"""

from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_frontend.core.batching.latency_profile import LatencyProfile
from skysail_frontend.core.batching.simulator import Workload, simulate
from skysail_frontend.core.load import capacity

SLO_S = 0.05
NUM_REPLICAS = 4
LOADS = (0.95, 1.05, 1.2, 2.0)
USES = (0.5, 0.6, 0.7, 0.8, 0.9)
POLICIES = {
    "hybrid": ServingOptions(policy=PolicyName.HYBRID),
    "eager": ServingOptions(policy=PolicyName.EAGER),
    "fixed, no delay": ServingOptions(policy=PolicyName.FIXED),
    "fixed, delay of SLO/10": ServingOptions(policy=PolicyName.FIXED, max_queue_delay_s=SLO_S / 10),
    "quantile": ServingOptions(policy=PolicyName.QUANTILE),
    "aimd": ServingOptions(policy=PolicyName.AIMD),
}


def latency_s(rows: int) -> float:
    """Return the latency of a batch: 10 ms, and 0.5 ms for each row."""
    return 0.010 + 0.0005 * rows


def full_load() -> float:
    """Return the rows per second in the largest batches of which two fit into the SLO."""
    rows = max(rows for rows in range(1, 65) if 2 * latency_s(rows) <= SLO_S)
    return NUM_REPLICAS * rows / latency_s(rows)


def one_by_one_s(rows: int) -> float:
    """Return the latency of a model that takes one row at a time."""
    return 0.020


def print_utilisations() -> None:
    """Print the share of queries in time by the utilization of the replicas."""
    for name, latency, slo_s, max_rows in (
        ("10 + 0.5 b ms, 50 ms", latency_s, SLO_S, 64),
        ("20 ms, one row at a time, 100 ms", one_by_one_s, 0.1, 1),
    ):
        options = ServingOptions(max_batch_size=max_rows)
        sizes = [rows for rows in (1, 2, 4, 8, 16, 32, 64) if rows <= max_rows]
        profile = LatencyProfile([(rows, latency(rows)) for rows in sizes])
        rows_per_s = capacity(profile, slo_s, max_rows)
        for num_replicas in (1, 2, 4):
            shares = [
                simulate(
                    options, Workload(use * num_replicas * rows_per_s, slo_s, latency, num_replicas)
                ).share_in_time
                for use in USES
            ]
            cells = " | ".join(f"{100 * share:.1f}" for share in shares)
            print(f"| {name} | {num_replicas} | {cells} |")


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
    print_utilisations()


if __name__ == "__main__":
    main()

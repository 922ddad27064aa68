"""A discrete-event simulation that drives the real batcher without a server.

Arrivals are a Poisson process, replicas are identical, and the latency of a batch is a function of
its rows with some noise. It shows whether a policy is worth trying, and serves no queries.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

from skysail_common.clock import NEVER
from skysail_common.serving_options import ServingOptions
from skysail_frontend.core.batching.batcher import Batcher
from skysail_frontend.core.query import Query

Latency = Callable[[int], float]
"""Returns the latency in seconds of a batch with a number of rows."""


@dataclass(frozen=True)
class Workload:
    """The simulated load and the number of replicas."""

    rows_per_s: float
    slo_s: float
    latency: Latency
    num_replicas: int = 4
    num_queries: int = 20_000
    noise: float = 0.05
    """Largest relative deviation of the latency of a batch from `latency`."""
    margin: float = 1.12
    """Factor of the latencies with which the batcher plans."""
    seed: int = 1
    num_callers: int = 0
    """Number of closed-loop callers; 0 for random arrivals at `rows_per_s`."""
    return_s: float = 0.0
    """Longest time of a closed-loop caller from an answer to its next query."""


@dataclass(frozen=True)
class Report:
    """The results of a simulation."""

    share_in_time: float
    """Share of all queries that was answered within the SLO."""
    mean_latency_s: float
    """Mean latency of the answered queries."""
    mean_batch_size: float
    median_refusal_s: float
    """Median time from the arrival of a query to its shedding; 0 if none was shed."""


class _Simulation:
    def __init__(self, options: ServingOptions, workload: Workload) -> None:
        self.batcher = Batcher(options)
        self.workload = workload
        self.random = random.Random(workload.seed)
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.numbers = count()
        self.free = workload.num_replicas
        self.wake_at = NEVER
        self.num_arrived = 0
        self.num_in_time = 0
        self.latencies: list[float] = []
        self.sizes: list[int] = []
        self.waits_of_shed: list[float] = []
        for rows in (1, 2, 4, 8, 16, 32, 64):
            if rows <= options.max_batch_size:
                self.batcher.profile.seed([(rows, workload.margin * workload.latency(rows))])

    def at(self, instant: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (instant, next(self.numbers), event))

    def run(self) -> Report:
        for _ in range(self.workload.num_callers or 1):
            self.at(0.0, self.arrive)
        while self.events:
            now, _, event = heapq.heappop(self.events)
            event(now)
        return Report(
            self.num_in_time / self.workload.num_queries,
            sum(self.latencies) / max(1, len(self.latencies)),
            sum(self.sizes) / max(1, len(self.sizes)),
            sorted(self.waits_of_shed)[len(self.waits_of_shed) // 2] if self.waits_of_shed else 0.0,
        )

    def arrive(self, now: float) -> None:
        self.num_arrived += 1
        deadline = now + self.workload.slo_s
        query = Query("", None, None, (), 1, (), now, deadline, lambda *_: None)
        if self.batcher.refusal(query, now, self.workload.num_replicas, self.free) is None:
            self.batcher.push(query)
        else:
            self.waits_of_shed.append(0.0)
        if not self.workload.num_callers and self.num_arrived < self.workload.num_queries:
            self.at(now + self.random.expovariate(self.workload.rows_per_s), self.arrive)
        self.decide(now)

    def decide(self, now: float) -> None:
        while self.free:
            decision = self.batcher.decide(now, now, self.workload.num_replicas)
            self.waits_of_shed += [now - query.arrival for query, _ in decision.shed]
            if not decision.batch:
                if decision.wait_until < self.wake_at:
                    self.wake_at = decision.wait_until
                    self.at(self.wake_at, self.wake)
                return
            self.free -= 1
            rows = len(decision.batch)
            noise = 1 + self.workload.noise * self.random.uniform(-1, 1)
            batch, took_s = decision.batch, self.workload.latency(rows) * noise
            self.at(now + took_s, partial(self.finish, batch, took_s))

    def wake(self, now: float) -> None:
        if now >= self.wake_at:
            self.wake_at = NEVER
        self.decide(now)

    def finish(self, batch: list[Query], took_s: float, now: float) -> None:
        self.free += 1
        self.sizes.append(len(batch))
        self.batcher.observe(len(batch), self.workload.margin * took_s, self.workload.slo_s, now)
        self.batcher.closed_loop.observe_result(len(batch), self.workload.latency(len(batch)), now)
        for query in batch:
            self.latencies.append(now - query.arrival)
            self.num_in_time += now <= query.deadline
            if self.workload.num_callers and self.num_arrived < self.workload.num_queries:
                self.at(now + self.random.uniform(0, self.workload.return_s), self.arrive)
        self.decide(now)


def simulate(options: ServingOptions, workload: Workload) -> Report:
    """Simulate a workload under these options; the report is the same for the same seed."""
    return _Simulation(options, workload).run()

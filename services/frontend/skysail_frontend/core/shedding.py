"""Outcomes and errors for queries that are shed or have no replica."""

from skysail_common.errors import (
    Backlog,
    DeadlineExceeded,
    NoReadyReplica,
    Overloaded,
    SkysailError,
)
from skysail_common.identifiers import ModelVersion
from skysail_frontend.core.batching.policies import ShedReason
from skysail_frontend.core.query import Outcome, Query
from skysail_frontend.core.routes import Application
from skysail_frontend.core.version_dispatcher import VersionDispatcher

# Texts of Clipper; the tests of its users compare them.
NO_MODEL = "No connected models found for query"
TOO_LATE = "Failed to retrieve a prediction response within the specified latency SLO"


def no_replica_error(query: Query, version: VersionDispatcher | None) -> NoReadyReplica:
    """Return the error for a query that no replica can answer."""
    name = query.version.name if query.version else None
    if name is None:
        assert query.application is not None
        return NoReadyReplica(_no_route_text(query.application))
    if version is None:
        return NoReadyReplica(f"model '{name}' is not deployed")
    if version.served.num_replicas == 0:
        return scaled_to_zero_error(name)
    if any(replica.is_ready for replica in version.replicas) and not version.num_ready:
        return NoReadyReplica(
            f"model '{name}' has no ready replica: the last batch of each is overdue"
        )
    return NoReadyReplica(f"model '{name}' has no ready replica")


def scaled_to_zero_error(name: ModelVersion) -> NoReadyReplica:
    """Return the error for a query of a version that is scaled to zero."""
    return NoReadyReplica(
        f"model '{name}' is scaled to 0 replicas; 'skysail scale {name} 1' starts one"
    )


def _no_route_text(application: Application) -> str:
    """Return the reason why no route of an application leads to a version."""
    text = f"application '{application.name}' is routed to"
    if not application.routes:
        return f"{text} no model"
    if len(application.routes) > 1:
        return f"{text} models of which one has no deployed version; see 'skysail apps'"
    (route,) = application.routes
    if route.version:
        return f"{text} model '{route.model_name}:{route.version}', which is not deployed"
    return f"{text} model '{route.model_name}', which has no current version; promote one"


def shed_outcome(
    version: VersionDispatcher, query: Query, reason: ShedReason, now: float
) -> tuple[Outcome, str, SkysailError]:
    """Return outcome, explanation and error for a query that is shed."""
    # Messages show two digits of the budget, because it is less than the timeout by the time for
    # parsing.
    name, budget_s = version.served.name, query.deadline - query.arrival
    error: SkysailError
    expected_s = version.wait_s(query.rows, now)
    wait_s: float | None = expected_s
    if reason is ShedReason.QUEUE_FULL:
        error = Overloaded(
            f"Exceeds maximum queue size: {version.batcher.max_queue_rows} rows are queued for "
            f"model '{name}'; retry later"
        )
        outcome, explanation = Outcome.DEFAULT_OVERLOADED, "the queue is full"
    elif reason is ShedReason.MEMORY_FULL:
        error = Overloaded(
            "cannot queue the query: the inputs of unsettled queries take all of the memory that "
            "max_queue_mib allows; retry later"
        )
        outcome, explanation = Outcome.DEFAULT_OVERLOADED, "the memory for queries is full"
    else:
        outcome, explanation = Outcome.DEFAULT_DEADLINE, TOO_LATE
        least_s = version.latency_s(query.rows)
        if 0 < budget_s < least_s:
            verb = "cannot" if reason is ShedReason.HOPELESS else "did not"
            error = DeadlineExceeded(
                f"model '{name}' {verb} answer within {budget_s:.2g} s: it takes {least_s:.2g} s "
                "even with an empty queue; set a longer SLO or timeout"
            )
            wait_s = None
        elif reason is ShedReason.HOPELESS:
            cause = "the replicas are busy"
            if expected_s > budget_s:
                cause = f"the expected wait is {expected_s:.2g} s"
            error = DeadlineExceeded(
                f"model '{name}' cannot answer within {budget_s:.2g} s: {cause}; retry later"
            )
        elif budget_s <= 0:
            error = DeadlineExceeded(
                f"cannot query model '{name}': the deadline had passed when the query arrived"
            )
            wait_s = None
        else:
            error = DeadlineExceeded(f"model '{name}' did not answer within {budget_s:.2g} s")
            # A retry needs at least the time that was too short for this query.
            wait_s = max(expected_s, now - query.arrival)
    error.backlog = Backlog(reason.value, version.queue.num_rows, wait_s)
    return outcome, explanation, error

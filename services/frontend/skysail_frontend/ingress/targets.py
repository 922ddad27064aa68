"""What a name in a query addresses, and the query made of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from skysail_common.clock import NEVER
from skysail_common.errors import ApplicationNotFound, DeadlineExceeded, InvalidInput, shown
from skysail_common.rpc.contract import Call
from skysail_common.tensors import Tensor
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.query import DEFAULT_PRIORITY, Query, Settle
from skysail_frontend.core.routes import Application, RouteTable, ServedVersion
from skysail_frontend.core.validation import Inputs, LazyTensor, PartTensor, validate_inputs

_LATE_S = 0.001
_AHEAD_S = 0.002
_AHEAD_SHARE = 0.05
_MAX_ID_LENGTH = 4096
"""Characters of a query's id, which is kept until the deadline even if the answer is earlier."""
_NO_INPUTS = Inputs((), 1, ())


@dataclass(frozen=True)
class Target:
    """An application, a model version, or both."""

    application: Application | None
    version: ServedVersion | None
    """None where the application is routed to no version that is deployed."""

    @property
    def is_settled(self) -> bool:
        """True where every query of the same name has this target, as long as the table holds."""
        is_sole = self.application is None or len(self.application.routes) == 1
        return is_sole and self.version is not None


def application_target(table: RouteTable, application: Application, version: str) -> Target:
    """Return what answers a query of an application.

    Raises:
        ModelNotFound: the version that the caller names is not deployed.
    """
    return Target(application, table.routed_version(application, version))


def find_target(table: RouteTable, name: str, version: str) -> Target:
    """Return the application of this name or, where there is none, the model.

    Raises:
        ApplicationNotFound: there is neither.
        ModelNotFound: the version that the caller names is not deployed.
    """
    application = table.applications.get(name)
    if application is not None:
        return application_target(table, application, version)
    if not table.has_model(name):
        raise ApplicationNotFound(
            f"no application and no deployed model is called {shown(name)!r}; 'skysail models' shows "
            "what is registered, and 'skysail start MODEL' starts it"
        )
    return Target(None, table.version(name, version))


def find_model_target(table: RouteTable, name: str, version: str) -> Target:
    """Return the model of this name or, where there is none, the application.

    Clients of the Open Inference Protocol expect errors, not default outputs, so that a model
    comes first for them.

    Raises:
        ModelNotFound: there is neither, or the version is not deployed.
    """
    if not table.has_model(name) and name in table.applications:
        return application_target(table, table.applications[name], version)
    return Target(None, table.version(name, version))


def check_in_time(dispatcher: Dispatcher, call: Call) -> None:
    """Check that somebody may still hear the answer to a call.

    Raises:
        DeadlineExceeded: it waited in the socket for so long that it is not worth a look.
    """
    if call.deadline - dispatcher.clock() < _LATE_S:
        raise DeadlineExceeded("the call came too late to be answered")


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """How long queries of one target may wait."""

    limit_s: float
    """By the SLO and the request; `NEVER` if neither bounds it."""
    default_s: float
    """Of a query that nothing else bounds."""
    has_default_output: bool
    """True if there is an answer to give at the deadline."""

    def deadline(self, arrival: float, call_deadline: float) -> float:
        """Return the deadline of a query, by those of its call, its target and itself."""
        if self.has_default_output:
            # A default output that leaves when the caller's own time ends finds nobody.
            call_deadline -= min(_AHEAD_S, _AHEAD_SHARE * (call_deadline - arrival))
        deadline = arrival + self.limit_s
        # Not by `min`, which takes several times as long.
        deadline = call_deadline if call_deadline < deadline else deadline
        return deadline if deadline < NEVER else arrival + self.default_s


def wait_limits(dispatcher: Dispatcher, target: Target, timeout_s: float | None) -> WaitLimits:
    """Return how long queries of a target may wait that name a time-out, or None."""
    application = target.application
    slo_s = application.slo_s if application else NEVER
    limit_s = slo_s if timeout_s is None else min(slo_s, timeout_s)
    has_default_output = application is not None and application.has_default
    return WaitLimits(limit_s, dispatcher.default_timeout_s, has_default_output)


def make_query(
    dispatcher: Dispatcher,
    target: Target,
    tensors: Sequence[Tensor | LazyTensor | PartTensor],
    settle: Settle,
    *,
    query_id: str = "",
    arrival: float | None = None,
    deadline: float,
    timeout_s: float | None = None,
    priority: int = DEFAULT_PRIORITY,
    widens: bool = False,
    label: str = "",
) -> Query:
    """Return a query that holds against the signature of its target.

    Args:
        dispatcher: Where it will be submitted.
        target: What is to answer.
        tensors: The inputs.
        settle: Is told the answer.
        query_id: Id of the caller.
        arrival: Instant at which the request came; now if None.
        deadline: Deadline of the call; the SLO or the time-out may be sooner.
        timeout_s: Longest wait that the request itself names.
        priority: 1 is the most urgent.
        widens: True to convert numbers to the types that the model takes.
        label: Put before messages about the inputs.

    Raises:
        InvalidInput: the inputs are not what the model takes, or the id is too long.
    """
    if len(query_id) > _MAX_ID_LENGTH:
        raise InvalidInput(
            f"the id of a query has {len(query_id)} characters; send at most {_MAX_ID_LENGTH}"
        )
    if arrival is None:
        arrival = dispatcher.clock()
    inputs = _NO_INPUTS
    if target.version is not None:
        max_rows = dispatcher.max_query_rows(target.version)
        inputs = validate_inputs(target.version, tensors, max_rows, label, widens=widens)
    query = Query(
        query_id,
        target.application,
        target.version,
        inputs.data,
        inputs.rows,
        inputs.variable_dims,
        arrival,
        wait_limits(dispatcher, target, timeout_s).deadline(arrival, deadline),
        settle,
    )
    query.priority = priority
    return query

"""Targets of queries by name, and construction of checked queries."""

from collections.abc import Sequence
from dataclasses import dataclass

from skysail_common.clock import NEVER
from skysail_common.errors import ApplicationNotFound, DeadlineExceeded, InvalidInput, shown
from skysail_common.rpc.contract import Call
from skysail_common.tensors import Tensor
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.lazy_tensors import LazyTensor, PartTensor
from skysail_frontend.core.query import DEFAULT_PRIORITY, Query, Settle
from skysail_frontend.core.routes import Application, RouteTable, ServedVersion
from skysail_frontend.core.validation import Inputs, validate_inputs
from skysail_frontend.ingress.function_params import check_params

_LATE_S = 0.001
_AHEAD_S = 0.002
_AHEAD_SHARE = 0.05
_MAX_ID_LENGTH = 4096
"""Longest id of a query; it stays in memory until the deadline even if the answer is earlier."""
_NO_INPUTS = Inputs((), 1, ())


@dataclass(frozen=True)
class Target:
    """The application, the model version, or both that answer a query."""

    application: Application | None
    version: ServedVersion | None
    """The version; None if the application has no route to a deployed version."""

    @property
    def is_settled(self) -> bool:
        """True if every query of the same name has this target, until the route table changes."""
        is_sole = self.application is None or len(self.application.routes) == 1
        return is_sole and self.version is not None


def application_target(table: RouteTable, application: Application, version: str) -> Target:
    """Return the target for a query of an application.

    Raises:
        ModelNotFound: the version that the caller names is not deployed.
    """
    return Target(application, table.routed_version(application, version))


def find_target(table: RouteTable, name: str, version: str) -> Target:
    """Return the application of this name, else the model of this name.

    Raises:
        ApplicationNotFound: neither exists.
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
    """Return the model of this name, else the application of this name.

    Clients of the Open Inference Protocol expect errors rather than default outputs, so that models
    come first.

    Raises:
        ModelNotFound: neither exists, or the version is not deployed.
    """
    if not table.has_model(name) and name in table.applications:
        return application_target(table, table.applications[name], version)
    return Target(None, table.version(name, version))


def check_in_time(dispatcher: Dispatcher, call: Call) -> None:
    """Check that the caller still waits for an answer.

    Raises:
        DeadlineExceeded: the call waited in the socket until its deadline.
    """
    if call.deadline - dispatcher.clock() < _LATE_S:
        raise DeadlineExceeded("the call came too late to be answered")


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """Limits of the waiting time of queries for one target."""

    limit_s: float
    """Limit by the SLO and the request; `NEVER` without both."""
    default_s: float
    """Limit of a query without any other limit."""
    has_default_output: bool
    """True if a default output answers at the deadline."""

    def deadline(self, arrival: float, call_deadline: float) -> float:
        """Return the soonest of the deadlines of call, target and request."""
        if self.has_default_output:
            # A default output must leave before the caller's deadline to reach the caller in time.
            call_deadline -= min(_AHEAD_S, _AHEAD_SHARE * (call_deadline - arrival))
        deadline = arrival + self.limit_s
        # A comparison is several times as fast as `min`.
        deadline = call_deadline if call_deadline < deadline else deadline
        return deadline if deadline < NEVER else arrival + self.default_s


def wait_limits(dispatcher: Dispatcher, target: Target, timeout_s: float | None) -> WaitLimits:
    """Return the limits for queries of a target.

    Args:
        dispatcher: Dispatcher of the queries.
        target: Target of the queries.
        timeout_s: Longest wait of the request; None for no limit.
    """
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
    params: str = "",
    widens: bool = False,
    label: str = "",
) -> Query:
    """Return a query after checking it against the signature of its target.

    Args:
        dispatcher: Dispatcher of the query.
        target: Target of the query.
        tensors: The inputs.
        settle: Callback for the answer.
        query_id: Id that the caller chose.
        arrival: Arrival of the request; now if None.
        deadline: Deadline of the call; the SLO or the timeout may be sooner.
        timeout_s: Longest wait of the request; None for no limit.
        priority: Priority; 1 is the most urgent.
        params: Parameters for the function of the model, as canonical JSON; empty for none.
        widens: True to convert numbers to the types of the model.
        label: Prefix of errors about the inputs.

    Raises:
        InvalidInput: the inputs do not match the signature, the function takes no parameters, or
            the id is too long.
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
        if params:
            check_params(target.version, params)
    return Query(
        query_id,
        target.application,
        target.version,
        inputs.data,
        inputs.rows,
        inputs.variable_dims,
        arrival,
        wait_limits(dispatcher, target, timeout_s).deadline(arrival, deadline),
        settle,
        priority,
        params,
    )

"""A query and its prediction."""

import enum
import logging
from collections.abc import Callable, Sequence

from skysail_common.errors import SkysailError, without_frames
from skysail_common.tensors import Data, DataType
from skysail_frontend.core.routes import Application, ServedVersion

log = logging.getLogger(__name__)

DEFAULT_PRIORITY = 2
"""Default priority of a query; 1 is more urgent, 3 and above are less urgent."""


class Outcome(enum.IntEnum):
    """How a query was answered, with the numbers of `skysail.v1.Outcome`."""

    OK = 1
    DEFAULT_DEADLINE = 2
    DEFAULT_NO_REPLICA = 3
    DEFAULT_MODEL_ERROR = 4
    DEFAULT_OVERLOADED = 5


class Prediction:
    """The answer to a query: outputs, the default output, or an error."""

    __slots__ = (
        "batch_wait_s",
        "compute_s",
        "error",
        "explanation",
        "outcome",
        "outputs",
        "queue_s",
        "shapes",
        "total_s",
    )

    def __init__(
        self,
        outcome: Outcome,
        outputs: Sequence[bytes] = (),
        shapes: Sequence[tuple[int, ...]] = (),
        explanation: str = "",
        error: SkysailError | None = None,
    ) -> None:
        """Leaves all times at 0.

        Args:
            outcome: How the query was answered.
            outputs: Data of each output in the order of the signature; empty for a default output.
            shapes: Shape of each output.
            explanation: Reason for a default output.
            error: Error that takes the place of the answer; it overrides the other fields.
        """
        self.outcome = outcome
        self.outputs = outputs
        self.shapes = shapes
        self.explanation = explanation
        self.error = error
        self.queue_s = 0.0
        self.batch_wait_s = 0.0
        self.compute_s = 0.0
        self.total_s = 0.0

    @property
    def is_default(self) -> bool:
        """True if the answer is the default output of the application."""
        return self.outcome is not Outcome.OK


Settle = Callable[["Query", Prediction], None]
"""Callback that receives the prediction of a query, once unless the query is cancelled.

If it raises, it is called again with an error: with the `SkysailError` that it raised, or else with
an internal error.
"""


class Query:
    """One input, of one row or several, that awaits one prediction."""

    __slots__ = (
        "answer_at",
        "application",
        "arrival",
        "attempts",
        "cache_key",
        "deadline",
        "dispatched",
        "input_bytes",
        "inputs",
        "is_part",
        "is_queued",
        "is_settled",
        "num_in_flight",
        "on_joined",
        "params",
        "parts",
        "priority",
        "query_id",
        "rows",
        "settle",
        "variable_dims",
        "version",
    )

    def __init__(
        self,
        query_id: str,
        application: Application | None,
        version: ServedVersion | None,
        inputs: Sequence[Data],
        rows: int,
        variable_dims: Sequence[int],
        arrival: float,
        deadline: float,
        settle: Settle,
        priority: int = DEFAULT_PRIORITY,
        params: str = "",
    ) -> None:
        """Creates an unsettled query.

        Args:
            query_id: Id that the caller chose; the core does not read it.
            application: Application that the caller addressed; None for a query of a model.
            version: Model version that answers; None if no route leads to one.
            inputs: Data of each input in the order of the signature.
            rows: Rows of each input; at least 1.
            variable_dims: Sizes of the variable dimensions, in the order of the signature.
            arrival: Instant at which the query arrived.
            deadline: Instant by which the query must be answered.
            settle: Receives the prediction.
            priority: Priority; 1 is the most urgent.
            params: Parameters for the function of the model, as canonical JSON; empty for none.
        """
        self.query_id = query_id
        self.application = application
        self.version = version
        self.inputs = inputs
        self.input_bytes = sum(map(len, inputs))
        self.rows = rows
        self.variable_dims = variable_dims
        self.arrival = arrival
        self.deadline = deadline
        self.settle = settle
        self.priority = priority
        self.params = params
        self.dispatched = 0.0
        self.answer_at = 0.0
        self.attempts = 0
        self.cache_key: tuple[str, tuple[bytes, ...], tuple[int, ...], str] | None = None
        self.is_part = False
        self.is_queued = False
        self.num_in_flight = 0
        self.on_joined: Callable[[Query, Prediction, float], None] | None = None
        self.parts: Sequence[Query] = ()
        self.is_settled = False

    @property
    def has_fixed_sizes(self) -> bool:
        """True if the sizes of all inputs follow from their shapes."""
        specs = self.version.signature.inputs if self.version else ()
        return all(spec.datatype is not DataType.BYTES for spec in specs)

    @property
    def is_packed(self) -> bool:
        """True if the data of the inputs are those of several tensors, because they are columns."""
        return self.version is not None and bool(self.version.signature.frame)

    def answer(self, prediction: Prediction, now: float) -> Prediction:
        """Settle the query unless it is settled already; return the prediction that it got."""
        if self.is_settled:
            return prediction
        self.is_settled = True
        # Inputs are freed now because other objects may refer to the query for a while.
        self.inputs = ()
        prediction.total_s = now - self.arrival
        # The callback usually refers to the query; this breaks the cycle, so that both are freed
        # without the garbage collector.
        settle, self.settle = self.settle, ignore_prediction
        failure: SkysailError
        try:
            settle(self, prediction)
        except SkysailError as error:
            failure = without_frames(error)
        except Exception as error:
            log.error("query settlement failed", exc_info=error)
            failure = SkysailError("internal error")
        else:
            return prediction
        prediction = Prediction(prediction.outcome, error=failure)
        try:
            settle(self, prediction)
        except Exception as error:
            # The caller has other queries to settle, so that no exception may reach it.
            log.error("query error not delivered", exc_info=error)
        return prediction

    def fail(
        self, outcome: Outcome, explanation: str, error: SkysailError, now: float
    ) -> Prediction:
        """Settle the query with its default output, or with `error` if it has none."""
        application = self.application
        # The large query decides once for all of its parts, so that a part has no default output.
        if application is not None and application.has_default and not self.is_part:
            prediction = Prediction(outcome, explanation=explanation)
        else:
            prediction = Prediction(outcome, error=without_frames(error))
        return self.answer(prediction, now)

    def cancel(self) -> None:
        """Settle the query without an answer, because its caller is gone."""
        self.is_settled = True
        self.inputs = ()
        self.settle = ignore_prediction


def ignore_prediction(query: Query, prediction: Prediction) -> None:
    """Drop the prediction of a query whose caller is gone."""

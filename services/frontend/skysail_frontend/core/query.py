"""A query and its prediction, as the core sees them."""

import enum
import logging
from collections.abc import Callable, Sequence

from skysail_common.errors import SkysailError, without_frames
from skysail_common.tensors import Data, DataType
from skysail_frontend.core.routes import Application, ServedVersion

log = logging.getLogger(__name__)

DEFAULT_PRIORITY = 2
"""Priority of a query that names none; 1 is more urgent, 3 and above are less."""


class Outcome(enum.IntEnum):
    """How a query was answered; numbers are those of `skysail.v1.Outcome`."""

    OK = 1
    DEFAULT_DEADLINE = 2
    DEFAULT_NO_REPLICA = 3
    DEFAULT_MODEL_ERROR = 4
    DEFAULT_OVERLOADED = 5


class Prediction:
    """The answer to a query: outputs, or the default output, or an error."""

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
        """Times are 0 until they are set.

        Args:
            outcome: How the query was answered.
            outputs: Data of each output in the order of the signature; none for a default.
            shapes: Shape of each output.
            explanation: Why it is a default.
            error: Why there is no answer at all; then nothing else counts.
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
        """True where the answer is the application's default output."""
        return self.outcome is not Outcome.OK


Settle = Callable[["Query", Prediction], None]
"""Is called exactly once for a query that is not cancelled, and with an error if it raises.

A `SkysailError` that it raises is that error: the answer cannot be given.
"""


class Query:
    """One input that awaits one prediction; it may have several rows."""

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
    ) -> None:
        """A query that nobody answers yet.

        Args:
            query_id: Chosen by the caller; not looked at.
            application: What was addressed, or None where a model was.
            version: Model version that is to answer, or None where no route leads to one.
            inputs: Data of each input in the order of the signature.
            rows: Rows of each input; at least 1.
            variable_dims: Sizes of the dimensions that vary, in the order of the signature.
            arrival: Instant at which the query came.
            deadline: Instant by which it must be answered.
            settle: Is told the answer.
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
        self.priority = DEFAULT_PRIORITY
        self.dispatched = 0.0
        self.answer_at = 0.0
        self.attempts = 0
        self.cache_key: tuple[str, tuple[bytes, ...], tuple[int, ...]] | None = None
        self.is_part = False
        self.is_queued = False
        self.num_in_flight = 0
        self.on_joined: Callable[[Query, Prediction, float], None] | None = None
        self.parts: Sequence[Query] = ()
        self.is_settled = False

    @property
    def has_fixed_sizes(self) -> bool:
        """True where the sizes of all inputs follow from their shapes."""
        specs = self.version.signature.inputs if self.version else ()
        return all(spec.datatype is not DataType.BYTES for spec in specs)

    def answer(self, prediction: Prediction, now: float) -> Prediction:
        """Settle the query, unless it is settled already, and return what it is settled with."""
        if self.is_settled:
            return prediction
        self.is_settled = True
        # What was asked is not needed any more, and others may hold the query for a while.
        self.inputs = ()
        prediction.total_s = now - self.arrival
        # Who settles mostly knows the query: kept, both would wait for the garbage collector.
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
            # An exception must not reach the caller, which has other queries to settle.
            log.error("query error not delivered", exc_info=error)
        return prediction

    def fail(
        self, outcome: Outcome, explanation: str, error: SkysailError, now: float
    ) -> Prediction:
        """Settle the query without a model: by the default output, or by `error` without one."""
        application = self.application
        # A part gets none: the large query decides once for all of its parts.
        if application is not None and application.has_default and not self.is_part:
            prediction = Prediction(outcome, explanation=explanation)
        else:
            prediction = Prediction(outcome, error=without_frames(error))
        return self.answer(prediction, now)

    def cancel(self) -> None:
        """Note that nobody waits for the answer any more."""
        self.is_settled = True
        self.inputs = ()
        self.settle = ignore_prediction


def ignore_prediction(query: Query, prediction: Prediction) -> None:
    """Settle a query whose caller is gone."""

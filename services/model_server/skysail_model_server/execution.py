"""Execution of batches: decoding, calls of the user's function, and the errors of queries.

Batches run on the main thread, because user code may depend on it. The I/O thread never waits for
them.
"""

import logging
import traceback
from collections.abc import Callable
from time import perf_counter_ns
from types import TracebackType

from skysail_common.clock import NEVER
from skysail_common.errors import InvalidInput, ModelFailed, SkysailError, Status
from skysail_common.model_functions import CALLERS
from skysail_common.replica_events import place_of
from skysail_common.tensors import Signature
from skysail_model_server.batches import BatchInputs, BatchOutputs
from skysail_model_server.call_watchdog import CallWatchdog
from skysail_model_server.memory import memory_advice
from skysail_model_server.model import Model
from skysail_model_server.model_health import ModelHealth
from skysail_protos.v1 import model_server_pb2

log = logging.getLogger(__name__)

_MAX_MESSAGE_BYTES = 2_000
_MAX_PLACE_BYTES = 200
MAX_LOST_BATCHES = 3
"""Consecutive batches that fail for lack of memory, after which a replica may end."""

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class Execution:
    """An executor that runs the batches of one model, one at a time."""

    def __init__(
        self,
        model: Model,
        watchdog: CallWatchdog,
        on_out_of_memory: Callable[[], None] = lambda: None,
        health: ModelHealth | None = None,
    ) -> None:
        """Prepare the execution of batches.

        Args:
            model: The model.
            watchdog: Watchdog of calls that do not return.
            on_out_of_memory: Callback after several consecutive batches failed for lack of memory
                and the example fails too.
            health: Checks of the model between batches; None for none.
        """
        self._model = model
        self._watchdog = watchdog
        self._on_out_of_memory = on_out_of_memory
        self._health = health
        self._num_lost_batches = 0

    def idle_s(self) -> float:
        """Return how long the main thread may wait for a batch, in seconds; `NEVER` for no limit."""
        return NEVER if self._health is None else self._health.due_in_s()

    def check_health(self) -> None:
        """Check the model if a check is due."""
        if self._health is not None:
            self._health.check_if_due()

    def run(self, batch: model_server_pb2.Batch) -> model_server_pb2.BatchResult:
        """Return the result of a batch; errors of user code become errors of queries."""
        result = model_server_pb2.BatchResult(id=batch.id)
        begin = perf_counter_ns()
        answers = _BatchAnswers(self._model.signature, batch, result, self._watchdog)
        lacks_memory = False
        try:
            self._answer(batch, answers)
        except InvalidInput as error:
            _refuse(batch, result, error.status, error.message)
            return result
        # Inputs and outputs need memory too, and the function may have used all of it.
        except MemoryError as error:
            log.warning("batch failed", exc_info=error)
            lacks_memory = True
            _refuse(batch, result, *_status_and_text(error))
        self._watchdog.call_ended()
        result.compute_us = min((perf_counter_ns() - begin) // 1000, 2**32 - 1)
        lacks_memory |= answers.lacks_memory
        if lacks_memory or self._num_lost_batches:
            self._count_lost(lacks_memory and len(result.errors) == len(batch.rows))
        return result

    def _answer(self, batch: model_server_pb2.Batch, answers: "_BatchAnswers") -> None:
        inputs = BatchInputs(self._model.signature.packed_inputs, batch, self._model.takes_list)
        for query, refusal in inputs.refused.items():
            answers.refuse(query, refusal.status, refusal.message)
        self._model.answer(inputs, answers)
        answers.write()

    def _count_lost(self, is_lost: bool) -> None:
        self._num_lost_batches = self._num_lost_batches + 1 if is_lost else 0
        if self._num_lost_batches == MAX_LOST_BATCHES:
            self._num_lost_batches = 0
            # Inputs that need too much memory do not mean that the replica is broken.
            if not self._answers_its_example():
                self._on_out_of_memory()

    def _answers_its_example(self) -> bool:
        """Return whether the function still answers its example; False without an example."""
        example = self._model.example
        if not example:
            return False
        self._watchdog.call_began(0)
        try:
            self._model.predict(example, len(example[0]))
        except BaseException:
            return False
        finally:
            self._watchdog.call_ended()
        return True


class _BatchAnswers:
    """The answers to the queries of one batch, on their way into its result."""

    def __init__(
        self,
        signature: Signature,
        batch: model_server_pb2.Batch,
        result: model_server_pb2.BatchResult,
        watchdog: CallWatchdog,
    ) -> None:
        self.lacks_memory = False
        """True if a query failed for lack of memory."""
        self._outputs = BatchOutputs(signature.outputs)
        self._result = result
        self._watchdog = watchdog
        self._expected_us = batch.expected_us
        self.add = self._outputs.add

    def call_began(self) -> None:
        self._watchdog.call_began(self._expected_us)

    def fail(self, query: int, error: BaseException) -> None:
        self.lacks_memory |= isinstance(error, MemoryError)
        code, message = _status_and_text(error)
        log.warning("query failed", extra={"error": message}, exc_info=_raised(error))
        self.refuse(query, code, message)

    def refuse(self, query: int, code: Status, message: str) -> None:
        self._result.errors.add(index=query, code=code, message=message)

    def write(self) -> None:
        """Write the outputs to the result."""
        self._outputs.write_to(self._result)


def _refuse(
    batch: model_server_pb2.Batch,
    result: model_server_pb2.BatchResult,
    code: Status,
    message: str,
) -> None:
    """Reset a result to an error for every query of the batch."""
    result.Clear()
    result.id = batch.id
    for index in range(len(batch.rows)):
        result.errors.add(index=index, code=code, message=message)


def _status_and_text(error: BaseException) -> tuple[Status, str]:
    """Return the status and the text of an error for the caller of the query."""
    raised_at = _user_frames(error)
    is_own = isinstance(error, SkysailError) and raised_at is None
    try:
        text = str(error)
        message = text if is_own else ": ".join(filter(None, [type(error).__name__, text]))
    except Exception:
        # The text of an error may come from user code, which may fail.
        message = type(error).__name__
    message = _cut(message, _MAX_MESSAGE_BYTES)
    if isinstance(error, SkysailError) and is_own:
        return error.status, message
    frames = traceback.extract_tb(raised_at or error.__traceback__)
    if frames:
        frame = frames[-1]
        where = place_of(frame.name, frame.filename, frame.lineno or 0)
        message += f" (in {_cut(where, _MAX_PLACE_BYTES)})"
    if isinstance(error, MemoryError):
        message += memory_advice()
    return ModelFailed.status, message


def error_text(error: BaseException) -> str:
    """Return an error of user code with its place, in one line."""
    _, message = _status_and_text(error)
    return message.replace("\n", " ")


def _cut(text: str, max_bytes: int) -> str:
    """Return the beginning of a text, because gRPC encodes each non-ASCII byte as three."""
    # A text may contain characters without UTF-8 encoding, such as half a surrogate pair.
    encoded = text[:max_bytes].encode(errors="replace")
    return encoded[:max_bytes].decode(errors="ignore")


def _user_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback from the user's function on; None if the function has returned."""
    user: TracebackType | None = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in CALLERS:
            user = trace.tb_next
        trace = trace.tb_next
    return user


def _raised(error: BaseException) -> ExcInfo | None:
    """Return an error for the log, starting at the user's function; None for an error of Skysail."""
    trace = _user_frames(error)
    if isinstance(error, SkysailError) and trace is None:
        return None
    return type(error), error, trace or error.__traceback__

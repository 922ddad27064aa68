"""Answers one batch: calls the user's function on it, and isolates what fails.

Runs on the main thread, so that user code finds there what it may expect; the I/O thread never
waits for it.
"""

import logging
import traceback
from time import perf_counter_ns

from skysail_common.errors import InvalidInput, ModelFailed, SkysailError, Status
from skysail_model_server.batches import BatchInputs, BatchOutputs
from skysail_model_server.model import Model
from skysail_protos.v1 import model_server_pb2

log = logging.getLogger(__name__)

_MAX_MESSAGE_LENGTH = 2_000


class Execution:
    """Runs the batches of one model, one at a time."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, batch: model_server_pb2.Batch) -> model_server_pb2.BatchResult:
        """Return the result of a batch; never raises for what user code does.

        A batch whose call fails is halved until the queries that make it fail stand alone: they
        fail, the others are answered.
        """
        result = model_server_pb2.BatchResult(id=batch.id)
        begin = perf_counter_ns()
        try:
            inputs = BatchInputs(self._model.signature.inputs, batch, self._model.takes_list)
        except InvalidInput as error:
            for index in range(len(batch.rows)):
                result.errors.add(index=index, code=error.status, message=error.message)
            return result
        outputs = BatchOutputs(self._model.signature.outputs)
        for first, last in inputs.uniform_ranges():
            self._solve(inputs, first, last, outputs, result)
        result.compute_us = min((perf_counter_ns() - begin) // 1000, 2**32 - 1)
        outputs.write_to(result)
        return result

    def _solve(
        self,
        inputs: BatchInputs,
        first: int,
        last: int,
        outputs: BatchOutputs,
        result: model_server_pb2.BatchResult,
    ) -> None:
        rows = inputs.rows[first:last]
        try:
            # Encoded before the next call, for which the function may use its memory again.
            outputs.add(rows, self._model.predict(inputs.select(first, last), sum(rows)))
        # All of them: SystemExit and CancelledError are no Exceptions, and no signal raises here.
        except BaseException as error:
            if last - first > 1:
                middle = (first + last) // 2
                self._solve(inputs, first, middle, outputs, result)
                self._solve(inputs, middle, last, outputs, result)
                return
            code, message = _blame(error)
            log.warning("query failed", extra={"error": message})
            result.errors.add(index=first, code=code, message=message)


def _blame(error: BaseException) -> tuple[Status, str]:
    is_ours = isinstance(error, SkysailError)
    try:
        message = str(error) if is_ours else f"{type(error).__name__}: {error}"
    except Exception:
        # Even the text of an error may be user code.
        message = type(error).__name__
    # A message may hold what no UTF-8 can, such as half a surrogate pair.
    message = message[:_MAX_MESSAGE_LENGTH].encode(errors="replace").decode()
    if isinstance(error, SkysailError):
        return error.status, message
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        # The function and line help; the path of the file is the server's own business.
        message += f" (in {frames[-1].name}, line {frames[-1].lineno})"
    return ModelFailed.status, message

"""Door: skysail.v1.QueryService."""

import secrets
from collections.abc import Mapping
from itertools import count

from google.protobuf.duration_pb2 import Duration

from skysail_common.errors import InvalidInput, SkysailError, shown
from skysail_common.query_params import params_from_json
from skysail_common.rpc.channels import MAX_MESSAGE_BYTES
from skysail_common.rpc.contract import Call, LateHandler, Stream, StreamHandler, UnaryHandler
from skysail_common.rpc.messages import seconds, tensor_from_proto, tensor_to_proto
from skysail_common.tensors import Tensor
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.lazy_tensors import PartTensor
from skysail_frontend.core.query import Prediction, Query, Settle
from skysail_frontend.ingress.answer_size import checked
from skysail_frontend.ingress.column_matrix import split_columns
from skysail_frontend.ingress.late_calls import late_handler
from skysail_frontend.ingress.outputs import output_tensors
from skysail_frontend.ingress.request_parser import PREDICT, DetachedData, RequestParser
from skysail_frontend.ingress.stream_session import Streams, StreamSession
from skysail_frontend.ingress.targets import check_in_time, find_target, make_query
from skysail_protos.v1 import query_pb2 as pb
from skysail_protos.v1 import tensors_pb2

SERVICE = "skysail.v1.QueryService"

_TARGET_TAG = 0x12

_predict_request = RequestParser(
    pb.PredictRequest, PREDICT, "send the elements in the data of its tensors"
)


class QueryIds:
    """A generator of query ids; a random start makes them unique among processes."""

    def __init__(self) -> None:
        self._numbers = count(secrets.randbits(40) << 12)

    def next_number(self) -> int:
        """Return the next id as a number that JSON readers keep exactly."""
        return next(self._numbers)

    def next_text(self) -> str:
        """Return the next id as text."""
        return f"{next(self._numbers):x}"


class GrpcQuery:
    """The handlers of QueryService."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        ids: QueryIds,
        streams: Streams,
        max_answer_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """Create the handlers.

        Args:
            dispatcher: Dispatcher of queries.
            ids: Generator of ids for queries without one.
            streams: All streams of the frontend.
            max_answer_bytes: Largest answer; the transport cannot send a larger one.
        """
        self._dispatcher = dispatcher
        self._ids = ids
        self._streams = streams
        self._max_answer_bytes = max_answer_bytes

    @property
    def unary(self) -> Mapping[str, UnaryHandler]:
        """Handlers of unary calls, by path."""
        return {f"/{SERVICE}/Predict": self.predict}

    @property
    def late(self) -> Mapping[str, LateHandler]:
        """Handlers of late calls, by path."""
        late = late_handler(self._dispatcher, _TARGET_TAG, find_target, self._query_of)
        return {f"/{SERVICE}/Predict": late}

    @property
    def streams(self) -> Mapping[str, StreamHandler]:
        """Handlers of streams, by path."""
        return {f"/{SERVICE}/PredictStream": self.predict_stream}

    def predict(self, call: Call) -> None:
        """Answer one query."""
        query = self._query_of(call)
        call.on_cancel(lambda: self._dispatcher.cancel(query))
        self._dispatcher.submit(query)

    def _query_of(self, call: Call) -> Query:
        def settle(query: Query, prediction: Prediction) -> None:
            if prediction.error is not None:
                call.fail(prediction.error)
            else:
                answer = _response(query, prediction).SerializeToString()
                call.reply(checked(answer, self._max_answer_bytes))

        with self._dispatcher.statistics.refusals:
            check_in_time(self._dispatcher, call)
            request, detached = _predict_request.parse(call.message)
            return self._query(request, detached, call.arrival, call.deadline, settle)

    def _query(
        self,
        request: pb.PredictRequest,
        detached: DetachedData | None,
        arrival: float,
        deadline: float,
        settle: Settle,
    ) -> Query:
        target = find_target(self._dispatcher.table, request.target, request.version)
        # A single surplus input is enough for the error.
        num_inputs = len(target.version.signature.inputs) + 1 if target.version else 0
        tensors = [_tensor(tensor, detached) for tensor in request.inputs[:num_inputs]]
        if request.columns and target.version:
            tensors = split_columns(target.version.signature, tensors, request.columns)
        return make_query(
            self._dispatcher,
            target,
            tensors,
            settle,
            query_id=request.query_id or self._ids.next_text(),
            arrival=arrival,
            deadline=deadline,
            timeout_s=seconds("timeout", request.timeout) if request.HasField("timeout") else None,
            params=params_from_json(request.params_json) if request.params_json else "",
            widens=True,
        )

    async def predict_stream(self, stream: Stream) -> None:
        """Answer the queries of a stream, each as soon as its answer is ready."""
        await self._streams.serve(stream, self._ask, can_age=True)

    def _ask(self, session: StreamSession, message: bytes) -> None:
        query_id = ""

        def settle(query: Query, prediction: Prediction) -> None:
            if prediction.error is not None:
                answer = _stream_error(query.query_id, prediction.error)
            else:
                response = pb.PredictStreamResponse(
                    query_id=query.query_id, response=_response(query, prediction)
                )
                answer = checked(response.SerializeToString(), self._max_answer_bytes)
            session.answer(query.query_id, answer)

        try:
            with self._dispatcher.statistics.refusals:
                request, detached = _predict_request.parse(message)
                query_id = request.query_id
                query = self._query(request, detached, session.arrival, session.deadline, settle)
                if query.query_id in session.unanswered:
                    raise InvalidInput(
                        f"query_id {shown(query.query_id)!r} is already in flight on this stream"
                    )
        except SkysailError as error:
            session.answer("", _stream_error(query_id, error))
        else:
            session.add(query.query_id, query)
            self._dispatcher.submit(query)


def _tensor(message: tensors_pb2.Tensor, detached: DetachedData | None) -> Tensor | PartTensor:
    tensor = tensor_from_proto(message)
    if detached is None:
        return tensor
    return PartTensor(tensor.name, tensor.datatype, tensor.shape, detached.data(tensor.data))


def _stream_error(query_id: str, error: SkysailError) -> bytes:
    response = pb.PredictStreamResponse(
        query_id=query_id,
        error=pb.QueryError(code=error.status, message=error.message, reason=type(error).__name__),
    )
    return response.SerializeToString()


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _response(query: Query, prediction: Prediction) -> pb.PredictResponse:
    model_name, version = query.version.name if query.version else ("", "")
    return pb.PredictResponse(
        query_id=query.query_id,
        outputs=[tensor_to_proto(tensor) for tensor in output_tensors(query, prediction)],
        outcome=pb.Outcome.ValueType(prediction.outcome),
        is_default=prediction.is_default,
        explanation=prediction.explanation,
        model=model_name,
        version=version,
        timings=pb.Timings(
            queue=_duration(prediction.queue_s),
            batch_wait=_duration(prediction.batch_wait_s),
            compute=_duration(prediction.compute_s),
            total=_duration(prediction.total_s),
        ),
    )

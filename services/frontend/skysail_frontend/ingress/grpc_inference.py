"""Door: inference.GRPCInferenceService, the Open Inference Protocol."""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from skysail_common import __version__
from skysail_common.conversions import packed
from skysail_common.errors import InvalidInput, ModelNotFound, SkysailError, Unavailable, shown
from skysail_common.rpc.channels import MAX_MESSAGE_BYTES
from skysail_common.rpc.contract import Call, LateHandler, Stream, StreamHandler, UnaryHandler
from skysail_common.tensors import DataType, Tensor, join_bytes_elements
from skysail_frontend.dispatch import Dispatcher
from skysail_frontend.ingress.answer_size import checked
from skysail_frontend.ingress.infer_answers import infer_response, tensor_metadata
from skysail_frontend.ingress.infer_parameters import (
    RequestOptions,
    check_tensor_parameters,
    request_options,
)
from skysail_frontend.ingress.infer_plans import Cut, InferPlan, InferPlans, cut, streamed
from skysail_frontend.ingress.late_calls import late_handler
from skysail_frontend.ingress.messages import MODEL_INFER, NO_DATA, RequestParser
from skysail_frontend.ingress.stream_session import Streams, StreamSession
from skysail_frontend.ingress.targets import (
    Target,
    check_in_time,
    find_model_target,
    longest_wait_s,
    make_query,
)
from skysail_frontend.ingress.triton_errors import triton_error
from skysail_frontend.query import Outcome, Prediction, Query, Settle
from skysail_frontend.validation import MAX_TEXTS, LazyTensor
from skysail_protos.inference import grpc_service_pb2 as pb

SERVICE = "inference.GRPCInferenceService"

EXTENSIONS = ("schedule_policy",)
"""Extensions of the protocol that are served, as Triton names them: `priority` and `timeout`."""

_CONTENTS_FIELD = {
    DataType.BOOL: "bool_contents",
    DataType.INT8: "int_contents",
    DataType.INT16: "int_contents",
    DataType.INT32: "int_contents",
    DataType.INT64: "int64_contents",
    DataType.UINT8: "uint_contents",
    DataType.UINT16: "uint_contents",
    DataType.UINT32: "uint_contents",
    DataType.UINT64: "uint64_contents",
    DataType.FP32: "fp32_contents",
    DataType.FP64: "fp64_contents",
    DataType.BYTES: "bytes_contents",
}
# The widest type of each field, which is what Triton calls it.
_FIELD_TYPE = {field: datatype.name for datatype, field in _CONTENTS_FIELD.items()}

_NAME_TAG = 0x0A
_SERIALIZED = ("bool_contents", "fp32_contents", "fp64_contents")
"""Fields whose serialized elements are those of a tensor, byte by byte."""
_MAX_NUMBERS = 256 * 1024
"""Integers of an input in a typed field; their conversion takes about 5 ms."""
_MAX_DIMENSIONS = 65
"""Dimensions of a shape that are looked at, one more than numpy allows."""
_MAX_NAMED = 1024
"""Parameters or outputs that a request may name."""

_infer_request = RequestParser(
    pb.ModelInferRequest, MODEL_INFER, "send the elements in raw_input_contents"
)
_ready_request = RequestParser(pb.ModelReadyRequest, NO_DATA)
_metadata_request = RequestParser(pb.ModelMetadataRequest, NO_DATA)

_ALL: frozenset[str] = frozenset()
_NO_OPTIONS = RequestOptions()


class GrpcInference:
    """Serves GRPCInferenceService."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        server_name: str,
        is_ready: Callable[[], bool],
        streams: Streams,
        max_answer_bytes: int = MAX_MESSAGE_BYTES,
        *,
        has_triton_errors: bool = False,
    ) -> None:
        """Serves by the dispatcher.

        Args:
            dispatcher: Answers queries.
            server_name: Name in the server metadata.
            is_ready: Tells whether the server takes queries.
            streams: Where streams are served.
            max_answer_bytes: Largest answer; the transport refuses to send a larger one.
            has_triton_errors: True to answer what is shed with Triton's codes and texts.
        """
        self._dispatcher = dispatcher
        self._streams = streams
        self._max_answer_bytes = max_answer_bytes
        self._has_triton_errors = has_triton_errors
        self._numbers = count()
        self._plans = InferPlans()
        self._server_name = server_name
        self._is_ready = is_ready

    @property
    def unary(self) -> Mapping[str, UnaryHandler]:
        """Handlers of unary calls, by path."""
        methods: dict[str, UnaryHandler] = {
            "ModelInfer": self.model_infer,
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
        }
        return {f"/{SERVICE}/{name}": handler for name, handler in methods.items()}

    @property
    def late(self) -> Mapping[str, LateHandler]:
        """Handlers of late calls, by path."""
        late = late_handler(self._dispatcher, _NAME_TAG, find_model_target, self._query_of)
        return {f"/{SERVICE}/ModelInfer": late}

    @property
    def streams(self) -> Mapping[str, StreamHandler]:
        """Handlers of streams, by path."""
        return {f"/{SERVICE}/ModelStreamInfer": self.model_stream_infer}

    def server_live(self, call: Call) -> None:
        """Say that the server runs."""
        call.reply(pb.ServerLiveResponse(live=True).SerializeToString())

    def server_ready(self, call: Call) -> None:
        """Say whether the server takes queries."""
        call.reply(pb.ServerReadyResponse(ready=self._is_ready()).SerializeToString())

    def model_ready(self, call: Call) -> None:
        """Say whether a model has a replica that takes batches; an unknown one has none."""
        request = _ready_request.parse(call.message)
        try:
            target = find_model_target(self._dispatcher.table, request.name, request.version)
        except (ModelNotFound, Unavailable):
            is_ready = False
        else:
            is_ready = target.version is not None and self._dispatcher.is_ready(target.version.name)
        call.reply(pb.ModelReadyResponse(ready=is_ready).SerializeToString())

    def server_metadata(self, call: Call) -> None:
        """Tell what this server is."""
        response = pb.ServerMetadataResponse(
            name=self._server_name, version=__version__, extensions=EXTENSIONS
        )
        call.reply(response.SerializeToString())

    def model_metadata(self, call: Call) -> None:
        """Tell what a model takes and gives."""
        request = _metadata_request.parse(call.message)
        table = self._dispatcher.table
        version = find_model_target(table, request.name, request.version).version
        if version is None:
            raise ModelNotFound(
                f"Request for unknown model: '{shown(request.name)}' has no available versions"
            )
        response = pb.ModelMetadataResponse(
            name=request.name,
            versions=[each.name.version for each in table.versions_of(version.name.model_name)],
            platform="python",
            inputs=[tensor_metadata(spec) for spec in version.signature.inputs],
            outputs=[tensor_metadata(spec) for spec in version.signature.outputs],
        )
        call.reply(response.SerializeToString())

    def model_infer(self, call: Call) -> None:
        """Answer one query."""
        query = self._query_of(call)
        call.on_cancel(lambda: self._dispatcher.cancel(query))
        self._dispatcher.submit(query)

    def _query_of(self, call: Call) -> Query:
        def settle(query: Query, prediction: Prediction) -> None:
            if prediction.error is not None:
                call.fail(self._error(query, prediction.error))
            else:
                call.reply(checked(asked.answer(query, prediction), self._max_answer_bytes))

        with self._dispatcher.statistics.refusals:
            check_in_time(self._dispatcher, call)
            asked = self._understand(call.message, call.arrival, call.deadline, settle)
        return asked.query

    async def model_stream_infer(self, stream: Stream) -> None:
        """Answer the queries of a stream, each when it is ready."""
        await self._streams.serve(stream, self._ask)

    def _ask(self, session: StreamSession, message: bytes) -> None:
        # Ids need not be unique here.
        name = str(next(self._numbers))

        def settle(query: Query, prediction: Prediction) -> None:
            if prediction.error is not None:
                answer = _stream_error(query.query_id, self._error(query, prediction.error))
            else:
                answer = streamed(asked.answer(query, prediction))
                answer = checked(answer, self._max_answer_bytes)
            session.answer(name, answer)

        try:
            with self._dispatcher.statistics.refusals:
                asked = self._understand(message, session.arrival, session.deadline, settle)
        except SkysailError as error:
            session.answer(name, _stream_error(_id_of(message), error))
        else:
            session.asked(name, asked.query)
            self._dispatcher.submit(asked.query)

    def _understand(
        self, message: bytes, arrival: float, deadline: float, settle: Settle
    ) -> "_Asked":
        """Return the query of a request and how to answer it.

        Raises:
            InvalidInput, ModelNotFound, Unsupported: it cannot be answered.
        """
        table = self._dispatcher.table
        parts: Cut | None = None
        found = self._plans.find(table, message)
        if found is None:
            parts = cut(message)
            plan = None if parts is None else self._plans.find_cut(parts.key)
            if plan is not None and parts is not None:
                found = (plan, parts.query_id, parts.raw)
        if found is not None:
            plan, query_id, raw = found
            query = plan.query(raw, query_id, arrival, deadline, settle)
            if query is not None:
                return _Asked(query, _ALL, plan, query_id)
        request = _infer_request.parse(message)
        target = find_model_target(table, request.model_name, request.model_version)
        wanted = _wanted_outputs(request, target) if request.outputs else _ALL
        options = _NO_OPTIONS
        if request.parameters:
            options = request_options(_parameters(request.parameters))
        query = make_query(
            self._dispatcher,
            target,
            _tensors(request, target),
            settle,
            query_id=request.id,
            arrival=arrival,
            deadline=deadline,
            timeout_s=options.timeout_s,
            priority=options.priority,
            label=f"[request id: {shown(request.id) or '<id_unknown>'}] ",
        )
        if parts is not None and not wanted and target.is_settled and query.has_fixed_sizes:
            limit_s = longest_wait_s(self._dispatcher, target, options.timeout_s)
            order = _order(request, target)
            self._plans.learn(message, parts, InferPlan(query, target, options, limit_s, order))
        return _Asked(query, wanted)

    def _error(self, query: Query, error: SkysailError) -> SkysailError:
        return triton_error(query.query_id, error) if self._has_triton_errors else error


class _Asked:
    """A query, and how its answer is to look."""

    __slots__ = ("_plan", "_query_id", "_wanted", "query")

    def __init__(
        self,
        query: Query,
        wanted: frozenset[str],
        plan: InferPlan | None = None,
        query_id: bytes = b"",
    ) -> None:
        self.query = query
        self._wanted = wanted
        self._plan = plan
        self._query_id = query_id

    def answer(self, query: Query, prediction: Prediction) -> bytes:
        """Return the serialized ModelInferResponse."""
        if self._plan is not None and prediction.outcome is Outcome.OK:
            return self._plan.answer(query, self._query_id, prediction)
        return infer_response(query, prediction, self._wanted).SerializeToString()


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    if len(parameters) > _MAX_NAMED:
        raise InvalidInput(f"a request has {len(parameters)} parameters; send at most {_MAX_NAMED}")
    result: dict[str, Any] = {}
    for name, parameter in parameters.items():
        field = parameter.WhichOneof("parameter_choice")
        result[name] = getattr(parameter, field) if field else ""
    return result


def _tensors(request: pb.ModelInferRequest, target: Target) -> list[Tensor | LazyTensor]:
    """Return the inputs of a request, raw or typed.

    Only one more than the model takes are looked at: one of them is wrong, and told to be.

    Raises:
        InvalidInput: an unknown datatype, or data in no way or in two.
    """
    if target.version is None:
        return []
    model, raw = shown(request.model_name), request.raw_input_contents
    if raw and len(raw) > len(request.inputs):
        raise InvalidInput(
            f"expected {len(request.inputs)} raw_input_contents for model '{model}', got {len(raw)}"
        )
    tensors: list[Tensor | LazyTensor] = []
    for index, message in enumerate(request.inputs[: len(target.version.signature.inputs) + 1]):
        name = message.name
        if message.parameters:
            check_tensor_parameters("input", name, message.parameters)
        datatype = DataType.named(message.datatype)
        shape = tuple(message.shape[:_MAX_DIMENSIONS])
        if not raw:
            tensors.append(_typed(model, message, datatype, shape))
            continue
        if index >= len(raw):
            raise InvalidInput(
                f"unable to find data for input tensor '{shown(name)}' for model '{model}' in "
                "request."
            )
        if message.HasField("contents"):
            raise InvalidInput(
                "contents field must not be specified when using raw_input_contents for "
                f"'{shown(name)}' for model '{model}'"
            )
        tensors.append(Tensor(name, datatype, shape, raw[index]))
    return tensors


def _typed(
    model: str,
    message: pb.ModelInferRequest.InferInputTensor,
    datatype: DataType,
    shape: tuple[int, ...],
) -> LazyTensor:
    """Return an input whose elements are in the field that fits its type."""
    name, contents = shown(message.name), message.contents
    expected = _CONTENTS_FIELD.get(datatype)
    for field, _ in contents.ListFields():
        if field.name != expected:
            raise InvalidInput(
                f"unexpected explicit tensor data for input tensor '{name}' for model '{model}' of "
                f"type '{_FIELD_TYPE[field.name]}', expected datatype '{datatype.name}'"
            )
    if expected is None:
        raise InvalidInput(f"input '{name}' of datatype '{datatype.name}' needs raw_input_contents")
    elements = getattr(contents, expected)

    def convert() -> bytes:
        if expected in _SERIALIZED:
            contents.DiscardUnknownFields()
            message_bytes = contents.SerializeToString()
            return message_bytes[len(message_bytes) - len(elements) * datatype.element_bytes :]
        most = MAX_TEXTS if datatype is DataType.BYTES else _MAX_NUMBERS
        if len(elements) > most:
            raise InvalidInput(
                f"input '{name}' has {len(elements)} elements in {expected}; send more than {most} "
                "in raw_input_contents"
            )
        if datatype is DataType.BYTES:
            return join_bytes_elements(elements)
        return packed(name, elements[:], datatype)

    return LazyTensor(message.name, datatype, shape, len(elements), convert)


def _order(request: pb.ModelInferRequest, target: Target) -> list[int]:
    """Return, for each input of the signature, its place among those of a request that holds."""
    assert target.version is not None
    specs = target.version.signature.inputs
    if len(specs) == 1:
        # It may have no name.
        return [0]
    places = {message.name: place for place, message in enumerate(request.inputs)}
    return [places[spec.name] for spec in specs]


def _wanted_outputs(request: pb.ModelInferRequest, target: Target) -> frozenset[str]:
    """Return the names of the outputs that are wanted; none means all."""
    if len(request.outputs) > _MAX_NAMED:
        raise InvalidInput(
            f"a request names {len(request.outputs)} outputs; name at most {_MAX_NAMED}"
        )
    wanted: set[str] = set()
    for output in request.outputs:
        if output.parameters:
            check_tensor_parameters("output", output.name, output.parameters)
        wanted.add(output.name)
    if wanted and target.version is not None:
        known = {spec.name for spec in target.version.signature.outputs}
        for name in wanted - known:
            raise InvalidInput(
                f"unexpected inference output '{shown(name)}' for model "
                f"'{shown(request.model_name)}'; it gives {', '.join(sorted(known))}"
            )
    return frozenset(wanted)


def _stream_error(query_id: str, error: SkysailError) -> bytes:
    response = pb.ModelStreamInferResponse(
        error_message=error.message, infer_response=pb.ModelInferResponse(id=query_id)
    )
    return response.SerializeToString()


def _id_of(message: bytes) -> str:
    try:
        return str(_infer_request.parse(message).id)
    except InvalidInput:
        return ""

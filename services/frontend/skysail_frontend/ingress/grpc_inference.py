"""Door: inference.GRPCInferenceService, the Open Inference Protocol."""

from collections.abc import Callable, Mapping
from itertools import count

from skysail_common import __version__
from skysail_common.errors import InvalidInput, ModelNotFound, SkysailError, Unavailable, shown
from skysail_common.rpc.channels import MAX_MESSAGE_BYTES
from skysail_common.rpc.contract import Call, LateHandler, Stream, StreamHandler, UnaryHandler
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.query import Outcome, Prediction, Query, Settle
from skysail_frontend.ingress.answer_size import checked
from skysail_frontend.ingress.infer_answers import infer_response, tensor_metadata
from skysail_frontend.ingress.infer_parameters import RequestOptions, request_options
from skysail_frontend.ingress.infer_requests import (
    infer_request,
    input_order,
    input_tensors,
    named_parameters,
    wanted_outputs,
)
from skysail_frontend.ingress.late_calls import late_handler
from skysail_frontend.ingress.request_parser import NO_DATA, RequestParser
from skysail_frontend.ingress.request_templates import (
    RequestParts,
    RequestTemplate,
    RequestTemplates,
    split_request,
    streamed,
)
from skysail_frontend.ingress.stream_session import Streams, StreamSession
from skysail_frontend.ingress.targets import (
    check_in_time,
    find_model_target,
    make_query,
    wait_limits,
)
from skysail_frontend.ingress.triton_errors import triton_error
from skysail_protos.inference import grpc_service_pb2 as pb

SERVICE = "inference.GRPCInferenceService"

EXTENSIONS = ("schedule_policy",)
"""Supported extensions of the protocol, by Triton's names: `priority` and `timeout`."""

_NAME_TAG = 0x0A
_ready_request = RequestParser(pb.ModelReadyRequest, NO_DATA)
_metadata_request = RequestParser(pb.ModelMetadataRequest, NO_DATA)

_ALL: frozenset[str] = frozenset()
_NO_OPTIONS = RequestOptions()


class GrpcInference:
    """The handlers of GRPCInferenceService."""

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
        """Create the handlers.

        Args:
            dispatcher: Dispatcher of queries.
            server_name: Name in the server metadata.
            is_ready: Function that returns whether the server accepts queries.
            streams: All streams of the frontend.
            max_answer_bytes: Largest answer; the transport cannot send a larger one.
            has_triton_errors: True to answer shed queries with Triton's codes and texts.
        """
        self._dispatcher = dispatcher
        self._streams = streams
        self._max_answer_bytes = max_answer_bytes
        self._has_triton_errors = has_triton_errors
        self._numbers = count()
        self._templates = RequestTemplates()
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
        """Answer that the server is live."""
        call.reply(pb.ServerLiveResponse(live=True).SerializeToString())

    def server_ready(self, call: Call) -> None:
        """Answer whether the server accepts queries."""
        call.reply(pb.ServerReadyResponse(ready=self._is_ready()).SerializeToString())

    def model_ready(self, call: Call) -> None:
        """Answer whether a model has a ready replica; an unknown model is not ready."""
        request, _ = _ready_request.parse(call.message)
        try:
            target = find_model_target(self._dispatcher.table, request.name, request.version)
        except (ModelNotFound, Unavailable):
            is_ready = False
        else:
            is_ready = target.version is not None and self._dispatcher.is_ready(target.version.name)
        call.reply(pb.ModelReadyResponse(ready=is_ready).SerializeToString())

    def server_metadata(self, call: Call) -> None:
        """Answer with the name, version and extensions of the server."""
        response = pb.ServerMetadataResponse(
            name=self._server_name, version=__version__, extensions=EXTENSIONS
        )
        call.reply(response.SerializeToString())

    def model_metadata(self, call: Call) -> None:
        """Answer with the inputs, outputs and versions of a model."""
        request, _ = _metadata_request.parse(call.message)
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
                call.reply(checked(pending.answer(query, prediction), self._max_answer_bytes))

        try:
            check_in_time(self._dispatcher, call)
            pending = self._parse(call.message, call.arrival, call.deadline, settle)
        except SkysailError as error:
            self._dispatcher.statistics.refusals.count(error)
            raise
        return pending.query

    async def model_stream_infer(self, stream: Stream) -> None:
        """Answer the queries of a stream, each as soon as its answer is ready."""
        await self._streams.serve(stream, self._ask)

    def _ask(self, session: StreamSession, message: bytes) -> None:
        # The session needs unique names, and the ids of clients need not be unique.
        name = str(next(self._numbers))

        def settle(query: Query, prediction: Prediction) -> None:
            if prediction.error is not None:
                answer = _stream_error(query.query_id, self._error(query, prediction.error))
            else:
                answer = streamed(pending.answer(query, prediction))
                answer = checked(answer, self._max_answer_bytes)
            session.answer(name, answer)

        try:
            pending = self._parse(message, session.arrival, session.deadline, settle)
        except SkysailError as error:
            self._dispatcher.statistics.refusals.count(error)
            session.answer(name, _stream_error(_id_of(message), error))
        else:
            session.add(name, pending.query)
            self._dispatcher.submit(pending.query)

    def _parse(
        self, message: bytes, arrival: float, deadline: float, settle: Settle
    ) -> "_PendingInfer":
        """Return the query of a request and the form of its answer.

        Raises:
            InvalidInput, ModelNotFound, Unsupported: the request cannot be answered.
        """
        table = self._dispatcher.table
        parts: RequestParts | None = None
        found = self._templates.find(table, message)
        # Large requests are not split, because that would copy their data.
        if found is None and len(message) <= infer_request.whole_bytes:
            parts = split_request(message)
            template = None if parts is None else self._templates.find_by_key(parts.key)
            if template is not None and parts is not None:
                found = (template, parts.query_id, parts.raw)
        if found is not None:
            template, query_id, raw = found
            query = template.query(raw, query_id, arrival, deadline, settle)
            if query is not None:
                return _PendingInfer(query, _ALL, template, query_id)
        request, detached = infer_request.parse(message)
        target = find_model_target(table, request.model_name, request.model_version)
        wanted = wanted_outputs(request, target) if request.outputs else _ALL
        options = _NO_OPTIONS
        if request.parameters:
            options = request_options(named_parameters(request.parameters))
        query = make_query(
            self._dispatcher,
            target,
            input_tensors(request, detached, target),
            settle,
            query_id=request.id,
            arrival=arrival,
            deadline=deadline,
            timeout_s=options.timeout_s,
            priority=options.priority,
            params=options.params,
            label=f"[request id: {shown(request.id) or '<id_unknown>'}] ",
        )
        # Data of a template are those of the request, one by one.
        is_whole = len(request.inputs) == len(query.inputs) and not query.is_packed
        is_regular = is_whole and not wanted and target.is_settled and query.has_fixed_sizes
        if parts is not None and is_regular:
            limits = wait_limits(self._dispatcher, target, options.timeout_s)
            order = input_order(request, target)
            self._templates.learn(
                message, parts, RequestTemplate(query, target, options, limits, order)
            )
        return _PendingInfer(query, wanted)

    def _error(self, query: Query, error: SkysailError) -> SkysailError:
        return triton_error(query.query_id, error) if self._has_triton_errors else error


class _PendingInfer:
    """A query and the form of its answer."""

    __slots__ = ("_query_id", "_template", "_wanted", "query")

    def __init__(
        self,
        query: Query,
        wanted: frozenset[str],
        template: RequestTemplate | None = None,
        query_id: bytes = b"",
    ) -> None:
        self.query = query
        self._wanted = wanted
        self._template = template
        self._query_id = query_id

    def answer(self, query: Query, prediction: Prediction) -> bytes:
        """Return the serialized ModelInferResponse."""
        if self._template is not None and prediction.outcome is Outcome.OK:
            return self._template.answer(query, self._query_id, prediction)
        return infer_response(query, prediction, self._wanted).SerializeToString()


def _stream_error(query_id: str, error: SkysailError) -> bytes:
    response = pb.ModelStreamInferResponse(
        error_message=error.message, infer_response=pb.ModelInferResponse(id=query_id)
    )
    return response.SerializeToString()


def _id_of(message: bytes) -> str:
    try:
        request, _ = infer_request.parse(message)
    except InvalidInput:
        return ""
    return str(request.id)

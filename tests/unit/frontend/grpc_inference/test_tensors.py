import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common import __version__
from skysail_common.clock import NEVER
from skysail_common.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    ModelNotFound,
    NoReadyReplica,
    Overloaded,
    SkysailError,
    Unavailable,
    Unsupported,
)
from skysail_common.tensors import (
    Content,
    DataType,
    Signature,
    TensorSpec,
    join_bytes_elements,
)
from skysail_frontend.core.batch import QueryOutputs
from skysail_frontend.core.validation import MAX_TEXTS
from skysail_frontend.ingress.grpc_inference import SERVICE, GrpcInference
from skysail_frontend.ingress.stream_session import Streams
from skysail_protos.inference import grpc_service_pb2 as pb
from skysail_testing.clock import FakeClock
from skysail_testing.examples import examples
from skysail_testing.fake_calls import FakeCall
from unit.frontend.parts import (
    DOUBLES,
    Frontend,
    TurningLoop,
    application,
    doubled,
    echoed,
    failing,
    served,
    signature_of,
    texts,
)

simple = served(
    "simple:1",
    signature_of(
        TensorSpec("INPUT0", DataType.INT32, (-1, 16)),
        TensorSpec("INPUT1", DataType.INT32, (-1, 16)),
    ),
)


def ask(
    frontend: Frontend,
    method: str,
    request: Message | bytes,
    *,
    deadline: float = NEVER,
    is_ready: bool = True,
) -> FakeCall:
    """Make a call as a transport does, and end the turn of the loop."""
    door = GrpcInference(
        frontend.dispatcher, "our name", lambda: is_ready, Streams(frontend.dispatcher, 10)
    )
    message = request if isinstance(request, bytes) else request.SerializeToString()
    call = FakeCall(f"/{SERVICE}/{method}", message, deadline, frontend.clock())
    try:
        door.unary[call.method](call)
    except SkysailError as error:
        call.fail(error)
    frontend.loop.turn()
    return call


def infer(frontend: Frontend, request: pb.ModelInferRequest, **options) -> pb.ModelInferResponse:
    call = ask(frontend, "ModelInfer", request, **options)
    assert call.error is None, call.error
    return pb.ModelInferResponse.FromString(call.answer)


def refusal(frontend: Frontend, request: pb.ModelInferRequest) -> SkysailError:
    call = ask(frontend, "ModelInfer", request)
    assert call.error is not None
    assert frontend.dispatcher.num_unsettled == 0
    return call.error


def request_of(model: str = "m", rows: int = 1, **fields) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="x", datatype="FP64", shape=[rows, 3])
    request.raw_input_contents.append(np.arange(3.0 * rows).tobytes())
    return request


def simple_request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="simple")
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        request.raw_input_contents.append(np.arange(16, dtype="<i4").tobytes())
    return request


@pytest.fixture
def frontend() -> Frontend:
    return Frontend(served("m:1", is_current=False), served("m:2"), simple, function=doubled)


# Server and model metadata.


def test_the_server_is_live():
    call = ask(Frontend(), "ServerLive", pb.ServerLiveRequest())
    assert pb.ServerLiveResponse.FromString(call.answer).live


@pytest.mark.parametrize("is_ready", [True, False])
def test_the_readiness_of_the_server_is_answered(is_ready):
    call = ask(Frontend(), "ServerReady", pb.ServerReadyRequest(), is_ready=is_ready)
    assert pb.ServerReadyResponse.FromString(call.answer).ready is is_ready


def test_the_server_metadata_have_name_and_extensions():
    call = ask(Frontend(), "ServerMetadata", pb.ServerMetadataRequest())
    response = pb.ServerMetadataResponse.FromString(call.answer)
    assert (response.name, response.version) == ("our name", __version__)
    assert list(response.extensions) == ["schedule_policy"]


@pytest.mark.parametrize(
    ("name", "version", "is_ready"),
    [
        ("m", "", True),
        ("m", "1", True),
        ("m", "9", False),
        ("nope", "", False),
        ("lost", "", False),
        ("app", "", True),
        ("unrouted", "", False),
        ("dangling", "", False),
        ("app", "9", False),
    ],
)
def test_a_model_is_ready_while_it_has_a_ready_replica(name, version, is_ready):
    applications = [
        application("app", "m:"),
        application("unrouted"),
        application("dangling", "gone:1"),
    ]
    frontend = Frontend(served("m:1"), served("lost:1"), applications=applications)
    frontend.replicas[1].is_ready = False
    call = ask(frontend, "ModelReady", pb.ModelReadyRequest(name=name, version=version))
    assert call.error is None
    assert pb.ModelReadyResponse.FromString(call.answer).ready is is_ready


def test_the_model_metadata_have_inputs_and_outputs():
    spec = TensorSpec("words", DataType.BYTES, (-1, -1))
    version = served("m:1", Signature((spec,), DOUBLES.outputs))
    frontend = Frontend(version, served("m:2", is_current=False))
    call = ask(frontend, "ModelMetadata", pb.ModelMetadataRequest(name="m"))
    response = pb.ModelMetadataResponse.FromString(call.answer)
    assert response.name == "m"
    assert sorted(response.versions) == ["1", "2"]
    assert [(t.name, t.datatype, list(t.shape)) for t in response.inputs] == [
        ("words", "BYTES", [-1, -1])
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in response.outputs] == [
        ("y", "FP64", [-1, 3])
    ]


@pytest.mark.parametrize(
    ("name", "version", "beginning"),
    [
        ("nope", "", "Request for unknown model: 'nope' is not found"),
        ("m", "9", "Request for unknown model: 'm' version 9 is not found"),
        ("unrouted", "", "Request for unknown model: 'unrouted' has no available versions"),
    ],
)
def test_the_metadata_of_an_unknown_model_are_not_found(name, version, beginning):
    frontend = Frontend(served(), applications=[application("unrouted")])
    request = pb.ModelMetadataRequest(name=name, version=version)
    call = ask(frontend, "ModelMetadata", request)
    assert isinstance(call.error, ModelNotFound)
    assert call.error.message.startswith(beginning)


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelInfer"])
def test_garbage_is_refused_with_the_text_of_triton(method):
    call = ask(Frontend(), method, b"\xff\xff\xff")
    assert isinstance(call.error, InvalidInput)
    assert call.error.message.startswith("Unable to parse request")


# Queries and answers.


def test_a_model_answers_with_its_current_version(frontend):
    response = infer(frontend, request_of(rows=2, id="seven"))
    assert (response.model_name, response.model_version, response.id) == ("m", "2", "seven")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP64", [2, 3])
    assert not output.HasField("contents")
    assert np.frombuffer(response.raw_output_contents[0]).tolist() == [0, 2, 4, 6, 8, 10]
    assert not response.parameters


def test_a_model_answers_with_the_named_version(frontend):
    response = infer(frontend, request_of(model_version="1"))
    assert (response.model_name, response.model_version) == ("m", "1")


def test_an_application_answers_by_its_route():
    frontend = Frontend(served(), applications=[application("app", "m:")], function=doubled)
    response = infer(frontend, request_of("app"))
    assert (response.model_name, response.model_version) == ("m", "1")


def test_a_model_takes_precedence_over_an_application_of_its_name():
    app = application("m", default=[9.0])
    frontend = Frontend(served(), applications=[app], function=doubled)
    assert infer(frontend, request_of("m")).parameters == {}


def example_of(datatype: DataType) -> list:
    if datatype is DataType.BYTES:
        return [b"", b"text", b"\xff\0"]
    if datatype is DataType.BOOL:
        return [True, False, True]
    if datatype.dtype.kind == "f":
        return [-1.5, 0.0, 65504.0]
    limits = np.iinfo(datatype.dtype)
    return [limits.min, 1, limits.max]


def raw_of(datatype: DataType, elements: list) -> bytes:
    if datatype is DataType.BYTES:
        return join_bytes_elements(elements)
    if datatype is DataType.BF16:
        return np.array(elements, "<f4").view("<u2")[1::2].tobytes()
    return np.array(elements, datatype.dtype).tobytes()


def one_of(datatype: DataType) -> tuple[Frontend, pb.ModelInferRequest]:
    """Return a model that returns its inputs, and a request without data."""
    version = served(signature=signature_of(TensorSpec("x", datatype, (-1, 3))))
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype=datatype.name, shape=[1, 3])
    return Frontend(version, function=echoed), request


@pytest.mark.parametrize("datatype", DataType)
def test_raw_contents_of_every_datatype_travel_unchanged(datatype):
    frontend, request = one_of(datatype)
    raw = raw_of(datatype, example_of(datatype))
    request.raw_input_contents.append(raw)
    response = infer(frontend, request)
    assert response.outputs[0].datatype == datatype.name
    assert list(response.raw_output_contents) == [raw]


FIELDS = {
    "bool_contents": [DataType.BOOL],
    "int_contents": [DataType.INT8, DataType.INT16, DataType.INT32],
    "int64_contents": [DataType.INT64],
    "uint_contents": [DataType.UINT8, DataType.UINT16, DataType.UINT32],
    "uint64_contents": [DataType.UINT64],
    "fp32_contents": [DataType.FP32],
    "fp64_contents": [DataType.FP64],
    "bytes_contents": [DataType.BYTES],
}
TYPED = [(field, datatype) for field, datatypes in FIELDS.items() for datatype in datatypes]


@pytest.mark.parametrize(("field", "datatype"), TYPED)
def test_typed_contents_of_every_datatype_are_answered_raw(field, datatype):
    frontend, request = one_of(datatype)
    elements = example_of(datatype)
    getattr(request.inputs[0].contents, field).extend(elements)
    response = infer(frontend, request)
    assert list(response.raw_output_contents) == [raw_of(datatype, elements)]
    assert not response.outputs[0].HasField("contents")


@settings(max_examples=examples(50))
@given(st.data(), st.sampled_from(TYPED))
def test_typed_integers_are_exact_or_refused(data, field_and_datatype):
    field, datatype = field_and_datatype
    if datatype.dtype.kind not in "iu":
        return
    wide = np.iinfo({"int_": "i4", "int6": "i8", "uint": "u4"}[field[:4]])
    if field == "uint64_contents":
        wide = np.iinfo("u8")
    elements = data.draw(st.lists(st.integers(wide.min, wide.max), min_size=3, max_size=3))
    limits = np.iinfo(datatype.dtype)
    frontend, request = one_of(datatype)
    getattr(request.inputs[0].contents, field).extend(elements)
    if all(limits.min <= element <= limits.max for element in elements):
        response = infer(frontend, request)
        assert np.frombuffer(response.raw_output_contents[0], datatype.dtype).tolist() == elements
    else:
        assert "does not fit" in refusal(frontend, request).message


def test_typed_integers_that_do_not_fit_are_refused():
    frontend, request = one_of(DataType.INT8)
    request.inputs[0].contents.int_contents.extend([1, 300, 2])
    error = refusal(frontend, request)
    assert isinstance(error, InvalidInput)
    assert error.message.startswith("cannot convert tensor 'x' to INT8: 300 does not fit; ")


@pytest.mark.parametrize("datatype", [DataType.FP16, DataType.BF16])
def test_half_precision_needs_raw_contents(datatype):
    frontend, request = one_of(datatype)
    assert "needs raw_input_contents" in refusal(frontend, request).message
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3])
    assert refusal(frontend, request).message == (
        "unexpected explicit tensor data for input tensor 'x' for model 'm' of type 'FP32', "
        f"expected datatype '{datatype.name}'"
    )


@pytest.mark.parametrize(("field", "datatype"), TYPED)
def test_typed_contents_in_the_wrong_field_are_refused_with_the_text_of_triton(field, datatype):
    frontend = Frontend(simple)
    request = simple_request()
    del request.raw_input_contents[:]
    getattr(request.inputs[0].contents, field).extend(example_of(datatype)[1:])
    request.inputs[1].contents.int_contents.extend(range(16))
    if field == "int_contents":
        expected = (
            "[request id: <id_unknown>] input byte size mismatch for input 'INPUT0' for model "
            "'simple'. Expected 64, got 8"
        )
        request.inputs[0].contents.int_contents[:] = [1, 2]
    else:
        widest = FIELDS[field][-1].name
        expected = (
            "unexpected explicit tensor data for input tensor 'INPUT0' for model 'simple' of type "
            f"'{widest}', expected datatype 'INT32'"
        )
    assert refusal(frontend, request).message == expected


def test_missing_contents_do_not_fill_the_shape():
    frontend, request = one_of(DataType.INT32)
    assert refusal(frontend, request).message == (
        "[request id: <id_unknown>] input byte size mismatch for input 'x' for model 'm'. "
        "Expected 12, got 0"
    )


def _both(request):
    request.inputs[0].contents.int_contents.extend(range(16))


def _too_few(request):
    del request.raw_input_contents[1]


def _too_many(request):
    request.raw_input_contents.append(b"")


def _wrong_type(request):
    request.inputs[0].datatype = "FP32"


def _unknown_type(request):
    request.inputs[0].datatype = "int32"


def _unknown_output(request):
    request.outputs.add(name="NOPE")


def _unknown_model(request):
    request.model_name = "nope"


def _unknown_version(request):
    request.model_version = "9"


def _renamed(request):
    request.inputs[1].name = "BOGUS"


def _twice(request):
    request.inputs[1].name = "INPUT0"


def _short(request):
    request.raw_input_contents[0] = request.raw_input_contents[0][:60]


def _without_batch(request):
    request.inputs[0].shape[:] = [16]


@pytest.mark.parametrize(
    ("spoil", "kind", "beginning"),
    [
        (
            _both,
            InvalidInput,
            "contents field must not be specified when using raw_input_contents for 'INPUT0' for "
            "model 'simple'",
        ),
        (
            _too_few,
            InvalidInput,
            "unable to find data for input tensor 'INPUT1' for model 'simple' in request.",
        ),
        (
            _too_many,
            InvalidInput,
            "expected 2 raw_input_contents for model 'simple', got 3",
        ),
        (
            _wrong_type,
            InvalidInput,
            "[request id: 7] inference input 'INPUT0' data-type is 'FP32', but model 'simple' "
            "expects 'INT32'",
        ),
        (_unknown_type, InvalidInput, "'int32' is not a datatype; known are BOOL, "),
        (
            _unknown_output,
            InvalidInput,
            "unexpected inference output 'NOPE' for model 'simple'",
        ),
        (_unknown_model, ModelNotFound, "Request for unknown model: 'nope' is not found"),
        (
            _unknown_version,
            ModelNotFound,
            "Request for unknown model: 'simple' version 9 is not found",
        ),
        (
            _renamed,
            InvalidInput,
            "unexpected inference input 'BOGUS' for model 'simple'",
        ),
        (
            _twice,
            InvalidInput,
            "[request id: 7] input 'INPUT0' already exists in request",
        ),
        (
            _short,
            InvalidInput,
            "[request id: 7] input byte size mismatch for input 'INPUT0' for model 'simple'. "
            "Expected 64, got 60",
        ),
        (
            _without_batch,
            InvalidInput,
            "[request id: 7] unexpected shape for input 'INPUT0' for model 'simple'. Expected "
            "[-1,16], got [16]",
        ),
    ],
)
def test_a_wrong_request_is_refused(frontend, spoil, kind, beginning):
    request = simple_request()
    request.id = "7"
    spoil(request)
    error = refusal(frontend, request)
    assert type(error) is kind
    assert error.message.startswith(beginning)


LONG = "日" * 40_000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda request: setattr(request, "model_name", LONG),
        lambda request: setattr(request, "model_version", LONG),
        lambda request: setattr(request.inputs[0], "name", LONG),
        lambda request: setattr(request.inputs[0], "datatype", LONG),
        lambda request: request.outputs.add(name=LONG),
        lambda request: (
            request.inputs[0].parameters["classification"].SetInParent()
            or setattr(request.inputs[0], "name", LONG)
        ),
        lambda request: setattr(request, "id", LONG) or _short(request),
        lambda request: setattr(request.inputs[1], "name", LONG) or _too_few(request),
        lambda request: setattr(request.inputs[0], "name", LONG) or _both(request),
    ],
)
def test_an_error_cuts_long_texts(frontend, spoil):
    request = simple_request()
    spoil(request)
    assert len(refusal(frontend, request).message) < 500


@pytest.mark.parametrize("field", ["int_contents", "fp32_contents", "bytes_contents"])
def test_an_error_of_typed_contents_cuts_long_texts(frontend, field):
    request = pb.ModelInferRequest(model_name="m")
    message = request.inputs.add(name=LONG, datatype="FP64", shape=[1, 3])
    getattr(message.contents, field).append(b"" if field == "bytes_contents" else 1)
    error = refusal(frontend, request)
    assert "unexpected explicit tensor data" in error.message
    assert len(error.message) < 500


@pytest.mark.parametrize(
    ("datatype", "field", "most"),
    [("INT64", "int64_contents", 256 * 1024), ("INT8", "int_contents", 256 * 1024)],
)
def test_too_many_typed_integers_are_refused(datatype, field, most):
    spec = TensorSpec("x", DataType[datatype], (-1, -1))
    frontend = Frontend(
        served(signature=Signature((spec,), DOUBLES.outputs)),
        function=lambda _: QueryOutputs([bytes(24)], [(1, 3)]),
    )
    request = pb.ModelInferRequest(model_name="m")
    message = request.inputs.add(name="x", datatype=datatype, shape=[1, most])
    getattr(message.contents, field).extend([7] * most)
    assert infer(frontend, request).model_name == "m"
    message.shape[1] = most + 1
    getattr(message.contents, field).append(7)
    assert refusal(frontend, request).message == (
        f"a request has {most + 1} integers in typed contents; send more than {most} in "
        "raw_input_contents"
    )


def test_the_texts_of_all_inputs_count():
    specs = [texts(name, Content.TEXT, -1) for name in "ab"]
    frontend = Frontend(served(signature=Signature(tuple(specs), DOUBLES.outputs)))
    request = pb.ModelInferRequest(model_name="m")
    for spec, count in zip(specs, (MAX_TEXTS, 1), strict=True):
        request.inputs.add(name=spec.name, datatype="BYTES", shape=[1, count])
        request.raw_input_contents.append(bytes(4 * count))
    assert f"got {MAX_TEXTS + 1}; send" in refusal(frontend, request).message


def test_the_integers_of_all_inputs_count(frontend):
    request = simple_request()
    del request.raw_input_contents[:]
    for message, count in zip(request.inputs, (256 * 1024, 1), strict=True):
        message.contents.int_contents.extend([7] * count)
    assert f"has {256 * 1024 + 1} integers" in refusal(frontend, request).message


def test_too_many_texts_in_a_request_are_refused():
    spec = texts("x", Content.TEXT, -1)
    frontend = Frontend(
        served(signature=Signature((spec,), DOUBLES.outputs)),
        function=lambda _: QueryOutputs([bytes(24)], [(1, 3)]),
    )
    for most, is_raw in ((MAX_TEXTS, True), (MAX_TEXTS, False)):
        request = pb.ModelInferRequest(model_name="m")
        message = request.inputs.add(name="x", datatype="BYTES", shape=[1, most])
        if is_raw:
            request.raw_input_contents.append(bytes(4 * most))
        else:
            message.contents.bytes_contents.extend([b""] * most)
        assert infer(frontend, request).model_name == "m"
        message.shape[1] = most + 1
        assert f"at most {MAX_TEXTS} string elements" in refusal(frontend, request).message


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("FP32", "fp32_contents", [0.0, -0.0, 1.5, float("inf"), 1e-45]),
        ("FP64", "fp64_contents", [0.1, -0.0, 5e-324, float("-inf")]),
        ("BOOL", "bool_contents", [True, False, False, True]),
    ],
)
def test_typed_elements_become_the_same_data_as_raw_ones(datatype, field, values):
    spec = TensorSpec("x", DataType[datatype], (-1, len(values)))
    frontend = Frontend(served(signature=signature_of(spec)), function=echoed)
    request = pb.ModelInferRequest(model_name="m")
    message = request.inputs.add(name="x", datatype=datatype, shape=[1, len(values)])
    getattr(message.contents, field).extend(values)
    # Fields of another version of the protocol do no harm.
    message.contents.MergeFromString(b"\x7a\x03abc")
    expected = np.array(values, DataType[datatype].dtype).tobytes()
    assert list(infer(frontend, request).raw_output_contents) == [expected]


@pytest.mark.parametrize("add", ["parameters", "outputs"])
def test_too_many_names_in_a_request_are_refused(frontend, add):
    request = simple_request()
    for number in range(1025):
        if add == "outputs":
            request.outputs.add(name="INPUT0")
        else:
            request.parameters[str(number)].bool_param = True
    assert "at most 1024" in refusal(frontend, request).message


def test_only_the_wanted_outputs_are_answered():
    frontend = Frontend(simple, function=echoed)
    request = simple_request()
    assert [each.name for each in infer(frontend, request).outputs] == ["INPUT0", "INPUT1"]
    request.outputs.add(name="INPUT1")
    response = infer(frontend, request)
    assert [each.name for each in response.outputs] == ["INPUT1"]
    assert len(response.raw_output_contents) == 1
    # Naming one twice asks for it once.
    request.outputs.add(name="INPUT1")
    assert [each.name for each in infer(frontend, request).outputs] == ["INPUT1"]


def test_outputs_whose_size_varies_have_the_shape_of_the_answer():
    output = TensorSpec("y", DataType.BYTES, (-1, -1))
    data = join_bytes_elements([b"a", b"bc"])
    version = served(signature=Signature(DOUBLES.inputs, (output,)))
    frontend = Frontend(version, function=lambda _: QueryOutputs([data], [(1, 2)]))
    response = infer(frontend, request_of())
    assert list(response.outputs[0].shape) == [1, 2]
    assert list(response.raw_output_contents) == [data]


@pytest.mark.parametrize(
    "error", [ModelFailed("ValueError: no"), InvalidInput("too long"), Overloaded("busy")]
)
def test_the_error_of_a_model_is_the_error_of_the_call(error):
    frontend = Frontend(served(), function=failing(error))
    assert refusal(frontend, request_of()) is error


# Deadlines and cancellation.


def test_the_deadline_of_the_call_applies():
    frontend = Frontend(served())
    call = ask(frontend, "ModelInfer", request_of(), deadline=frontend.clock() + 0.05)
    frontend.loop.advance(0.04)
    assert not call.is_answered
    frontend.loop.advance(0.02)
    assert isinstance(call.error, DeadlineExceeded)


def test_the_timeout_parameter_is_in_microseconds():
    frontend = Frontend(served())
    request = request_of()
    request.parameters["timeout"].int64_param = 20_000
    call = ask(frontend, "ModelInfer", request, deadline=frontend.clock() + 10)
    frontend.loop.advance(0.019)
    assert not call.is_answered
    frontend.loop.advance(0.002)
    assert isinstance(call.error, DeadlineExceeded)


@pytest.mark.parametrize(
    ("options", "call_s", "expected_s"),
    [
        ({"slo_s": 0.5, "default": [0.0]}, 0.1, 0.098),
        ({"slo_s": 0.5}, 0.1, 0.1),
        ({"slo_s": 0.5}, NEVER, 0.5),
        ({"slo_s": 300.0}, NEVER, 300.0),
    ],
)
def test_a_template_has_the_limits_of_its_request(options, call_s, expected_s):
    frontend = Frontend(served(), applications=[application("app", "m:1", **options)])
    door = GrpcInference(frontend.dispatcher, "", lambda: True, Streams(frontend.dispatcher, 10))
    message, now = request_of("app").SerializeToString(), frontend.clock()
    for _ in range(3):
        call = FakeCall(f"/{SERVICE}/ModelInfer", message, now + call_s, now)
        door.unary[call.method](call)
    frontend.loop.turn()
    deadlines = [query.deadline - now for query in frontend.replica.sent[0].queries]
    assert deadlines == pytest.approx([expected_s] * 3)


def test_the_default_timeout_applies_without_any_other_limit():
    frontend = Frontend(served(), default_timeout_s=3.0)
    call = ask(frontend, "ModelInfer", request_of())
    frontend.loop.advance(2.9)
    assert not call.is_answered
    frontend.loop.advance(0.2)
    assert isinstance(call.error, DeadlineExceeded)


def test_a_cancelled_call_cancels_its_query():
    frontend = Frontend(served())
    frontend.replica.is_ready = False
    call = ask(frontend, "ModelInfer", request_of())
    call.cancel()
    assert frontend.dispatcher.num_unsettled == 0
    assert len(frontend.version().queue) == 0
    assert not call.is_answered


def test_a_model_without_replicas_is_unavailable():
    frontend = Frontend(served(num_replicas=0))
    assert isinstance(refusal(frontend, request_of()), NoReadyReplica)


# Parameters.


def parameter_error(frontend: Frontend, name: str, field: str, value: object) -> SkysailError:
    request = request_of()
    setattr(request.parameters[name], field, value)
    return refusal(frontend, request)


@pytest.mark.parametrize(
    ("name", "field", "value", "text"),
    [
        (
            "timeout",
            "string_param",
            "1",
            "invalid value type for 'timeout' parameter, expected int64_param.",
        ),
        (
            "timeout",
            "bool_param",
            True,
            "invalid value type for 'timeout' parameter, expected int64_param.",
        ),
        (
            "timeout",
            "double_param",
            1.0,
            "invalid value type for 'timeout' parameter, expected int64_param.",
        ),
        ("timeout", "int64_param", -5, "invalid value for 'timeout', expected"),
        ("priority", "int64_param", -1, "invalid value for 'priority', expected value >= 0."),
        ("priority", "string_param", "1", "invalid value type for 'priority' parameter"),
        (
            "triton_anything",
            "bool_param",
            True,
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the "
            "following keys starting with 'triton_' are allowed: "
            "triton_enable_empty_final_response",
        ),
    ],
)
def test_wrong_parameters_are_refused_with_the_text_of_triton(frontend, name, field, value, text):
    error = parameter_error(frontend, name, field, value)
    assert isinstance(error, InvalidInput)
    assert error.message.startswith(text)


def test_sequences_are_not_supported(frontend):
    for field, value in (("int64_param", 77), ("string_param", "a")):
        assert isinstance(parameter_error(frontend, "sequence_id", field, value), Unsupported)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("timeout", "int64_param", 0),
        ("timeout", "uint64_param", 1_000_000),
        ("priority", "uint64_param", 2**64 - 1),
        ("triton_enable_empty_final_response", "bool_param", True),
        ("anything", "double_param", 1.5),
        ("binary_data_output", "bool_param", True),
        ("headers", "string_param", "x"),
    ],
)
def test_other_parameters_are_ignored(frontend, name, field, value):
    request = request_of()
    setattr(request.parameters[name], field, value)
    assert infer(frontend, request).model_name == "m"


def test_a_parameter_without_a_value_is_no_timeout(frontend):
    request = request_of()
    request.parameters["timeout"].SetInParent()
    error = refusal(frontend, request)
    assert error.message.startswith("invalid value type for 'timeout' parameter")


@pytest.mark.parametrize("name", ["shared_memory_region", "classification"])
def test_shared_memory_and_classification_are_not_supported(frontend, name):
    request = request_of()
    request.inputs[0].parameters[name].string_param = "region"
    error = refusal(frontend, request)
    assert isinstance(error, Unsupported)
    assert error.message.endswith("input 'x'")
    request = request_of()
    request.outputs.add(name="y").parameters[name].string_param = "region"
    error = refusal(frontend, request)
    assert isinstance(error, Unsupported)
    assert error.message.endswith("output 'y'")


# Default outputs.


def test_parameters_mark_a_default_output():
    app = application("app", "m:", default=[1.0, 2.0, 3.0])
    frontend = Frontend(served(), applications=[app])
    call = ask(frontend, "ModelInfer", request_of("app", rows=2, id="7"))
    frontend.loop.advance(0.2)
    response = pb.ModelInferResponse.FromString(call.answer)
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "7")
    assert response.parameters["skysail_outcome"].string_param == "DEFAULT_DEADLINE"
    assert response.parameters["skysail_explanation"].string_param == (
        "Failed to retrieve a prediction response within the specified latency SLO"
    )
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP64", [2, 3])
    assert np.frombuffer(response.raw_output_contents[0]).tolist() == [1, 2, 3, 1, 2, 3]


def test_a_late_call_gets_the_default_output_of_an_application_but_not_of_a_model():
    app = application("app", "m:", default=[1.0, 2.0, 3.0])
    hidden = application("m", "m:", default=[9.0])
    frontend = Frontend(served(), applications=[app, hidden])
    streams = Streams(frontend.dispatcher, 10)
    door = GrpcInference(frontend.dispatcher, "our name", lambda: True, streams)
    call = FakeCall("", request_of("app", id="seven").SerializeToString())
    late = door.late[f"/{SERVICE}/ModelInfer"]
    assert late(call)
    response = pb.ModelInferResponse.FromString(call.answer)
    assert response.id == "seven"
    assert response.parameters["skysail_outcome"].string_param == "DEFAULT_OVERLOADED"
    assert np.frombuffer(response.raw_output_contents[0]).tolist() == [1.0, 2.0, 3.0]
    other = FakeCall("", request_of("m", id="eight").SerializeToString())
    assert not late(other)
    assert not other.is_answered
    assert frontend.version().batcher.rate.num_rows == 2


def test_a_default_output_without_routes_names_no_model():
    frontend = Frontend(applications=[application("app", default="none")])
    response = infer(frontend, request_of("app"))
    assert (response.model_name, response.model_version) == ("", "")
    assert response.parameters["skysail_outcome"].string_param == "DEFAULT_NO_REPLICA"
    assert (response.outputs[0].name, response.outputs[0].datatype) == ("output", "BYTES")
    assert list(response.raw_output_contents) == [join_bytes_elements([b"none"])]


def test_a_default_output_is_cut_to_the_wanted_outputs():
    app = application("app", "m:", default={"y": [0.0] * 3, "z": 1})
    frontend = Frontend(served(num_replicas=0), applications=[app])
    request = request_of("app")
    request.outputs.add(name="y")
    assert [each.name for each in infer(frontend, request).outputs] == ["y"]


def test_texts_travel_through():
    frontend = Frontend(served(signature=signature_of(texts("x"))), function=echoed)
    request = pb.ModelInferRequest(model_name="m")
    message = request.inputs.add(name="x", datatype="BYTES", shape=[2])
    message.contents.bytes_contents.extend([b"a", "é".encode()])
    response = infer(frontend, request)
    assert list(response.raw_output_contents) == [join_bytes_elements([b"a", "é".encode()])]


# Streams.


class OneStream:
    """A stream that sends some messages, ends, and keeps the answers."""

    method = f"/{SERVICE}/ModelStreamInfer"
    deadline = NEVER
    arrival = FakeClock.BEGIN

    def __init__(self, *messages: bytes) -> None:
        self._messages = messages
        self.answers: list[pb.ModelStreamInferResponse] = []

    def metadata(self) -> dict[str, str | bytes]:
        return {}

    async def __aiter__(self):
        for message in self._messages:
            yield message

    async def send(self, message: bytes) -> None:
        self.answers.append(pb.ModelStreamInferResponse.FromString(message))


async def stream_infer(*messages: bytes) -> list[pb.ModelStreamInferResponse]:
    frontend = Frontend(served("m:1"), function=doubled, loop=TurningLoop)
    streams = Streams(frontend.dispatcher, 10)
    door = GrpcInference(frontend.dispatcher, "our name", lambda: True, streams)
    stream = OneStream(*messages)
    await door.streams[stream.method](stream)
    assert frontend.dispatcher.num_unsettled == 0
    return stream.answers


async def test_a_stream_answers_each_query_and_says_that_it_is_final():
    requests = [request_of(id=each).SerializeToString() for each in ("a", "b", "a", "")]
    answers = await stream_infer(*requests)
    assert sorted(each.infer_response.id for each in answers) == ["", "a", "a", "b"]
    for each in answers:
        assert each.error_message == ""
        assert each.infer_response.parameters["triton_final_response"].bool_param
        assert np.frombuffer(each.infer_response.raw_output_contents[0]).tolist() == [0, 2, 4]


async def test_the_inputs_of_a_stream_keep_their_names_in_any_order():
    frontend = Frontend(simple, function=echoed, loop=TurningLoop)
    door = GrpcInference(
        frontend.dispatcher, "our name", lambda: True, Streams(frontend.dispatcher, 10)
    )
    request = simple_request()
    request.inputs[0].name, request.inputs[1].name = "INPUT1", "INPUT0"
    messages = []
    for number in range(3):
        request.raw_input_contents[0] = bytes([number + 1] * 64)
        messages.append(request.SerializeToString())
    stream = OneStream(*messages)
    await door.streams[stream.method](stream)
    firsts = [each.infer_response.raw_output_contents[1] for each in stream.answers]
    assert firsts == [bytes([number + 1] * 64) for number in range(3)]


async def test_a_query_that_fails_leaves_the_stream_open():
    answers = await stream_infer(
        request_of("nope", id="a").SerializeToString(),
        b"\xff",
        request_of(id="b").SerializeToString(),
    )
    by_id = {each.infer_response.id: each.error_message for each in answers}
    assert by_id["a"] == "Request for unknown model: 'nope' is not found"
    assert by_id[""] == "Unable to parse request: it is not a ModelInferRequest"
    assert by_id["b"] == ""


# Shed queries.


def test_a_server_may_shed_with_the_errors_of_triton():
    frontend = Frontend(served(max_batch_size=1), max_queue_size=1)
    frontend.replica.is_ready = False
    door = GrpcInference(
        frontend.dispatcher,
        "our name",
        lambda: True,
        Streams(frontend.dispatcher, 10),
        has_triton_errors=True,
    )
    calls = []
    for _ in range(2):
        message = request_of(id="7").SerializeToString()
        calls.append(FakeCall(f"/{SERVICE}/ModelInfer", message, NEVER))
        door.unary[calls[-1].method](calls[-1])
    error = calls[1].error
    assert isinstance(error, Unavailable)
    assert error.message == "[request id: 7] Exceeds maximum queue size"
    assert error.backlog is not None
    assert error.backlog.num_rows == 1


def test_the_priority_of_a_request_ranks_it():
    frontend = Frontend(served(max_batch_size=1))
    frontend.replica.is_ready = False
    for priority in (0, 3, 1):
        request = request_of(id=str(priority))
        request.parameters["priority"].uint64_param = priority
        ask(frontend, "ModelInfer", request)
    frontend.replica.revive()
    for _ in range(3):
        frontend.loop.turn()
        frontend.replica.answer()
    assert [batch.queries[0].query_id for batch in frontend.replica.sent] == ["1", "0", "3"]

"""Repeating requests use a template, which must not change any answer."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput, ModelNotFound, SkysailError
from skysail_common.tensors import DataType, TensorSpec
from skysail_frontend.ingress.grpc_inference import SERVICE, GrpcInference
from skysail_frontend.ingress.request_templates import split_request
from skysail_frontend.ingress.stream_session import Streams
from skysail_protos.inference import grpc_service_pb2 as pb
from skysail_testing.examples import examples
from skysail_testing.fake_calls import FakeCall
from unit.frontend.parts import Frontend, application, doubled, echoed, served, signature_of

PATH = f"/{SERVICE}/ModelInfer"
two = served(
    "two:1",
    signature_of(TensorSpec("a", DataType.FP32, (-1, 2)), TensorSpec("b", DataType.INT64, (-1, 3))),
)


class Door:
    """A door that keeps templates, and a new door for each request."""

    def __init__(self, *versions, function=doubled, applications=()) -> None:
        self.frontend = Frontend(*versions, function=function, applications=applications)
        self.door = self._new()

    def _new(self) -> GrpcInference:
        streams = Streams(self.frontend.dispatcher, 10)
        return GrpcInference(self.frontend.dispatcher, "s", lambda: True, streams)

    def ask(self, message: bytes, *, is_new: bool = False) -> pb.ModelInferResponse | SkysailError:
        call = FakeCall(PATH, message)
        try:
            (self._new() if is_new else self.door).unary[PATH](call)
        except SkysailError as error:
            return error
        self.frontend.loop.turn()
        if call.error is not None:
            return call.error
        return pb.ModelInferResponse.FromString(call.answer)

    @property
    def num_templates(self) -> int:
        return len(self.door._templates._templates)


def request_of(
    model: str = "m", query_id: str = "", rows: int = 1, version: str = "", **fields
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=query_id, **fields)
    request.inputs.add(name="x", datatype="FP64", shape=[rows, 3])
    request.raw_input_contents.append(np.arange(3.0 * rows).tobytes())
    return request


@settings(max_examples=examples(60))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "1"]),
            st.sampled_from(["", "7", "ä", "x" * 127, "y" * 128, "z" * 300]),
            st.integers(1, 5),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_an_answer_is_the_same_with_and_without_a_template(asked):
    door = Door(served())
    for version, query_id, rows in asked:
        message = request_of(query_id=query_id, rows=rows, version=version).SerializeToString()
        answer = door.ask(message)
        assert answer == door.ask(message, is_new=True)
        assert isinstance(answer, pb.ModelInferResponse)
        assert answer.id == query_id
        assert list(answer.outputs[0].shape) == [rows, 3]
        values = np.frombuffer(answer.raw_output_contents[0])
        assert values.tolist() == [2.0 * each for each in range(3 * rows)]


def test_several_inputs_and_outputs_have_templates_too():
    door = Door(two, function=echoed)
    request = pb.ModelInferRequest(model_name="two", id="1")
    request.inputs.add(name="a", datatype="FP32", shape=[1, 2])
    request.inputs.add(name="b", datatype="INT64", shape=[1, 3])
    for number in range(4):
        request.id = str(number)
        data = [np.full(2, number, "<f4").tobytes(), np.full(3, number, "<i8").tobytes()]
        request.raw_input_contents[:] = data
        answer = door.ask(request.SerializeToString())
        assert isinstance(answer, pb.ModelInferResponse)
        assert (answer.id, list(answer.raw_output_contents)) == (str(number), data)
    assert door.num_templates == 1


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_inputs_of_equal_size_keep_their_names_in_any_order(names):
    specs = [TensorSpec(name, DataType.INT64, (-1, 2)) for name in "ab"]
    door = Door(served("pair:1", signature_of(*specs)), function=echoed)
    request = pb.ModelInferRequest(model_name="pair", id="1")
    for name in names:
        request.inputs.add(name=name, datatype="INT64", shape=[1, 2])
    for number in range(3):
        sent = {name: np.array([number, ord(name)]).tobytes() for name in names}
        request.raw_input_contents[:] = [sent[name] for name in names]
        answer = door.ask(request.SerializeToString())
        assert isinstance(answer, pb.ModelInferResponse)
        outputs = [each.name for each in answer.outputs]
        assert dict(zip(outputs, answer.raw_output_contents, strict=True)) == sent
    assert door.num_templates == 1


def test_three_inputs_keep_their_names_in_any_order():
    specs = [
        TensorSpec(name, DataType.INT8, (-1, size))
        for name, size in zip("abc", (1, 2, 1), strict=True)
    ]
    door = Door(served("three:1", signature_of(*specs)), function=echoed)
    for order in permutations(specs):
        request = pb.ModelInferRequest(model_name="three")
        for spec in order:
            request.inputs.add(name=spec.name, datatype="INT8", shape=[1, *spec.shape[1:]])
        for number in range(2):
            sent = {each.name: bytes([number + ord(each.name)] * each.shape[1]) for each in order}
            request.raw_input_contents[:] = sent.values()
            answer = door.ask(request.SerializeToString())
            assert isinstance(answer, pb.ModelInferResponse)
            assert list(answer.raw_output_contents) == [sent[name] for name in "abc"]
    assert door.num_templates == 6


def test_an_id_that_is_not_utf8_is_refused_as_without_a_template():
    door = Door(served())
    message = request_of(query_id="abc").SerializeToString()
    assert isinstance(door.ask(message), pb.ModelInferResponse)
    error = door.ask(message.replace(b"abc", b"\xff\xfe\xfd"))
    assert isinstance(error, InvalidInput)
    assert error.message == "Unable to parse request: it is not a ModelInferRequest"


@pytest.mark.parametrize("query_id", ["", "7"])
def test_a_long_request_has_no_template(query_id):
    door = Door(served())
    request = request_of(query_id=query_id)
    request.parameters["headers"].string_param = "x" * 4096
    for _ in range(2):
        assert isinstance(door.ask(request.SerializeToString()), pb.ModelInferResponse)
    assert door.num_templates == 0


def test_an_id_of_up_to_4096_characters_is_answered():
    door = Door(served())
    error = door.ask(request_of(query_id="i" * 4097).SerializeToString())
    assert isinstance(error, InvalidInput)
    assert error.message == "the id of a query has 4097 characters; send at most 4096"
    for size in (1, 127, 128, 3000, 4096):
        for _ in range(2):
            answer = door.ask(request_of(query_id="i" * size).SerializeToString())
            assert isinstance(answer, pb.ModelInferResponse)
            assert len(answer.id) == size


@pytest.mark.parametrize("tag", [b"\x0a", b"\x1a", b"\x3a"])
def test_a_length_of_more_than_five_bytes_is_left_to_the_parser(tag):
    assert split_request(tag + b"\x80\x80\x80\x80\x80\x00") is None
    assert split_request(tag + b"\xff" * 1000 + b"\x00") is None
    parts = split_request(b"\x3a\x81\x80\x80\x80\x00a")
    assert parts is not None
    assert parts.raw == [b"a"]


@pytest.mark.parametrize("size", [0, 8, 16, 32, 48])
def test_data_of_another_size_is_refused_as_without_a_template(size):
    door = Door(served())
    request = request_of()
    for _ in range(2):
        assert isinstance(door.ask(request.SerializeToString()), pb.ModelInferResponse)
    request.raw_input_contents[0] = bytes(size)
    error = door.ask(request.SerializeToString())
    assert isinstance(error, InvalidInput)
    assert "byte size mismatch" in error.message or "unable to find data" in error.message


def test_more_data_than_inputs_is_refused_as_without_a_template():
    door = Door(served())
    request = request_of()
    for _ in range(2):
        door.ask(request.SerializeToString())
    request.raw_input_contents.append(bytes(8))
    assert isinstance(door.ask(request.SerializeToString()), InvalidInput)


def test_a_template_ends_with_its_route_table():
    door = Door(served("m:1"))
    message = request_of().SerializeToString()
    for _ in range(2):
        answer = door.ask(message)
        assert isinstance(answer, pb.ModelInferResponse)
        assert answer.model_version == "1"
    door.frontend.apply(served("m:2"))
    door.frontend.add_replica("m:2", doubled)
    answer = door.ask(message)
    assert isinstance(answer, pb.ModelInferResponse)
    assert answer.model_version == "2"
    door.frontend.apply()
    assert isinstance(door.ask(message), ModelNotFound)


def test_the_slo_and_the_default_output_of_an_application_apply_with_a_template():
    app = application("app", "m:1", default=[9.0, 9.0, 9.0], slo_s=0.1)
    door = Door(served(), applications=[app], function=None)
    message = request_of("app").SerializeToString()
    for _ in range(2):
        call = FakeCall(PATH, message)
        door.door.unary[PATH](call)
        door.frontend.loop.advance(0.2)
        answer = pb.ModelInferResponse.FromString(call.answer)
        assert answer.parameters["skysail_outcome"].string_param == "DEFAULT_DEADLINE"
        assert np.frombuffer(answer.raw_output_contents[0]).tolist() == [9.0, 9.0, 9.0]


def test_queries_of_an_application_with_several_routes_are_spread_each_time():
    app = application("app", "m:1", "n:1", slo_s=10.0)
    door = Door(served("m:1"), served("n:1"), applications=[app])
    message = request_of("app").SerializeToString()
    answers = [door.ask(message) for _ in range(60)]
    assert {answer.model_name for answer in answers} == {"m", "n"}
    assert door.num_templates == 0


def test_templates_are_bounded():
    door = Door(served())
    for number in range(3000):
        request = request_of()
        request.parameters["timeout"].int64_param = 10_000_000 + number
        assert isinstance(door.ask(request.SerializeToString()), pb.ModelInferResponse)
    assert 0 < door.num_templates <= 2 * 1024


@settings(max_examples=examples(200))
@given(st.binary(max_size=60), st.integers(0, 80), st.integers(0, 255))
def test_any_request_is_split_correctly_or_not_at_all(noise, position, byte):
    message = bytearray(request_of(query_id="7").SerializeToString())
    message[position % len(message)] = byte
    for candidate in (noise, bytes(message)):
        parts = split_request(candidate)
        if parts is None:
            continue
        try:
            parsed = pb.ModelInferRequest.FromString(candidate)
        except Exception:
            continue
        assert list(parsed.raw_input_contents) == parts.raw


def test_more_data_than_any_template_has_are_not_copied():
    door = Door(served(), function=doubled)
    message = request_of(query_id="7").SerializeToString()
    for _ in range(2):
        assert isinstance(door.ask(message), pb.ModelInferResponse)
    assert door.door._templates._sizes
    long = message + bytes(16 * 1024 * 1024)
    tracemalloc.start()
    try:
        answer = door.ask(long)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(answer, InvalidInput)
    assert peak < 2 * 1024 * 1024

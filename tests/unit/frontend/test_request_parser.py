import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.rpc.varints import varint
from skysail_frontend.ingress.request_parser import (
    MAX_STRUCTURE_BYTES,
    MODEL_INFER,
    NO_DATA,
    PREDICT,
    RequestParser,
)
from skysail_protos.inference import grpc_service_pb2 as pb
from skysail_protos.v1 import query_pb2
from skysail_testing.examples import examples

infer = RequestParser(pb.ModelInferRequest, MODEL_INFER, "send raw")
predict = RequestParser(query_pb2.PredictRequest, PREDICT)
ready = RequestParser(pb.ModelReadyRequest, NO_DATA)

KIB = 1024
LARGE = 4 * MAX_STRUCTURE_BYTES
"""Size of a message that is parsed only if it consists of data."""


def whole(parser: RequestParser, message: bytes):
    """Parse a message and put its detached data back."""
    request, held = parser.parse(message)
    if held is None:
        return request
    if isinstance(request, query_pb2.PredictRequest):
        for tensor in request.inputs:
            tensor.data = bytes(held.data(tensor.data))
        return request
    texts = [each.contents.bytes_contents for each in request.inputs if each.HasField("contents")]
    for contents in (request.raw_input_contents, *texts):
        contents[:] = [bytes(held.data(content)) for content in contents]
    return request


def full_request() -> pb.ModelInferRequest:
    """Return a request with large data of every kind."""
    request = pb.ModelInferRequest(model_name="m", model_version="1", id="i" * KIB)
    request.parameters["headers"].string_param = "p" * KIB
    request.parameters["flag"].bool_param = True
    request.inputs.add(name="x", shape=[1, 2]).contents.fp32_contents.extend([1.5] * 500_000)
    request.inputs.add(name="y").contents.fp64_contents.extend([1.5] * 100_000)
    request.inputs.add(name="z").contents.bytes_contents.append(b"t" * LARGE)
    request.inputs.add(name="u").contents.uint_contents.extend([1] * MAX_STRUCTURE_BYTES)
    request.outputs.add(name="y")
    request.raw_input_contents.extend([b"r" * LARGE, b""])
    return request


def test_data_of_any_size_are_parsed():
    request = full_request()
    assert whole(infer, request.SerializeToString()) == request
    query = query_pb2.PredictRequest(query_id="i" * KIB, target="m")
    query.inputs.add(name="x", shape=[1, LARGE], data=b"d" * LARGE)
    assert whole(predict, query.SerializeToString()) == query


@pytest.mark.parametrize(
    "unit",
    [
        b"\x2a\x00",  # an input
        b"\x32\x00",  # an output
        b"\x3a\x00",  # raw contents
        b"\x22\x00",  # a parameter
        b"\x7a\x02ab",  # an unknown text
        b"\x78\x01",  # an unknown number
        b"\x79" + bytes(8),
        b"\x7d" + bytes(4),
        b"\x1a\x01i",  # an id
        b"\x2a\x04\x2a\x02\x42\x00",  # an input with a text
        b"\x2a\x05\x2a\x03\x1a\x01\x01",  # an input with a packed number
        b"\x2a\x04\x2a\x02\x18\x01",  # an input with a number
    ],
)
def test_many_small_fields_are_refused(unit):
    small = unit * (MAX_STRUCTURE_BYTES // len(unit))
    infer.parse(small)
    with pytest.raises(InvalidInput) as caught:
        infer.parse(small + unit * LARGE)
    assert caught.value.message == (
        "cannot parse ModelInferRequest: it has more than 256 KiB beside its data; send raw"
    )


@pytest.mark.parametrize("field", [1, 2, 3, 4, 5])
def test_many_packed_numbers_are_refused(field):
    for size, is_parsed in ((MAX_STRUCTURE_BYTES * 7, True), (MAX_STRUCTURE_BYTES * 9, False)):
        contents = bytes([field << 3 | 2]) + varint(size) + b"\x01" * size
        tensor = b"\x2a" + varint(len(contents)) + contents
        message = b"\x2a" + varint(len(tensor)) + tensor
        if is_parsed:
            (parsed,) = whole(infer, message).inputs
            ((_, elements),) = parsed.contents.ListFields()
            assert len(elements) == size
        else:
            with pytest.raises(InvalidInput, match="beside its data"):
                infer.parse(message)


@pytest.mark.parametrize("field", [6, 7])
def test_many_packed_floats_are_refused(field):
    for size, is_parsed in ((MAX_STRUCTURE_BYTES * 15, True), (MAX_STRUCTURE_BYTES * 17, False)):
        contents = bytes([field << 3 | 2]) + varint(size) + bytes(size)
        tensor = b"\x2a" + varint(len(contents)) + contents
        message = b"\x2a" + varint(len(tensor)) + tensor
        if is_parsed:
            assert whole(infer, message) == pb.ModelInferRequest.FromString(message)
        else:
            with pytest.raises(InvalidInput, match="beside its data; send raw"):
                infer.parse(message)


def test_data_are_parts_of_the_message():
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[b"r" * LARGE, b"", b"s"])
    message = request.SerializeToString()
    parsed, held = infer.parse(message)
    assert len(parsed.SerializeToString()) < KIB
    parts = [held.data(content) for content in parsed.raw_input_contents]
    assert parts == [b"r" * LARGE, b"", b"s"]
    assert all(part.obj is message for part in parts)


def test_the_last_of_repeated_data_counts():
    tensor = b"".join(b"\x22" + varint(size) + bytes([size % 256]) * size for size in (LARGE, 3))
    message = b"\x22" + varint(len(tensor)) + tensor + b"\x22\x00"
    parsed = whole(predict, message)
    assert parsed == query_pb2.PredictRequest.FromString(message)
    assert [each.data for each in parsed.inputs] == [b"\3\3\3", b""]


@pytest.mark.parametrize("parser", [infer, predict, ready])
@pytest.mark.parametrize(
    "message",
    [
        b"\xff",
        b"\x0a",
        b"\x0a\x05ab",
        b"\x2a\xff\xff\xff\xff\x7f",
        b"\x0a\x02\xff\xfe",
        b"\xff" * 20,
    ],
)
@pytest.mark.parametrize("padding", [0, LARGE])
def test_bytes_that_are_not_a_message_are_refused(parser, message, padding):
    # Data, which questions about a model do not have.
    if padding and parser is not ready:
        data = (b"\x3a" if parser is infer else b"\x22") + varint(padding) + bytes(padding)
        if parser is predict:
            data = b"\x22" + varint(len(data)) + data
        message = data + message
    name = parser.message_type.DESCRIPTOR.name
    with pytest.raises(InvalidInput) as caught:
        parser.parse(message)
    assert caught.value.message == f"Unable to parse request: it is not a {name}"


def test_groups_do_not_bypass_the_limit():
    group = b"\x7b\x7c" * LARGE
    with pytest.raises(InvalidInput):
        infer.parse(group)


@settings(max_examples=examples(60))
@given(st.binary(max_size=80), st.integers(0, 80), st.integers(0, 255))
def test_a_large_message_parses_like_protobuf(noise, position, byte):
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(LARGE)])
    contents = request.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents
    contents.int_contents.extend([1, 2])
    contents.bytes_contents.extend([b"a", b""])
    head = bytearray(request.SerializeToString())
    head[position % 30] = byte
    for message in (bytes(head), bytes(head) + noise, noise + bytes(head)):
        try:
            expected = pb.ModelInferRequest.FromString(message)
        except Exception:
            expected = None
        try:
            parsed = whole(infer, message)
        except InvalidInput as error:
            refusal = error.message
        else:
            assert parsed == expected
            continue
        # A changed length may make a field of the data, which is too large then.
        assert expected is None or "beside its data" in refusal or b"\x7b" in message

"""A door with templates and a door without templates give equal answers to the same bytes.

So they are where the data of a request remain in its message, as those of large requests do.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skysail_common.tensors import DataType, TensorSpec, join_bytes_elements
from skysail_frontend.ingress import grpc_inference
from skysail_protos.inference import grpc_service_pb2 as pb
from skysail_testing.examples import examples
from unit.frontend.parts import application, echoed, served, signature_of, texts
from unit.frontend.test_request_templates import Door

FP32, INT32, INT64, BYTES = DataType.FP32, DataType.INT32, DataType.INT64, DataType.BYTES
MODELS = {
    "sole": (TensorSpec("x", FP32, (-1, 2)),),
    "pair": (TensorSpec("a", INT32, (-1, 2)), TensorSpec("b", INT32, (-1, 2))),
    "mixed": (
        TensorSpec("a", INT64, (-1, 1)),
        TensorSpec("b", FP32, (-1, 2)),
        TensorSpec("c", INT32, (-1, 2)),
    ),
    "texts": (texts("t"), TensorSpec("n", INT32, (-1, 1))),
}
VERSIONS = [served(f"{name}:1", signature_of(*specs)) for name, specs in MODELS.items()]
APPLICATIONS = [application("app", "pair:1", slo_s=10.0)]
FIELDS = {FP32: "fp32_contents", INT32: "int_contents", INT64: "int64_contents"}
IDS = [None, b"", b"7", b"\xff\xfe", "ä".encode(), b"y" * 127, b"z" * 128, b"w" * 5000]
PLACES = ["usual", "first", "last", "twice"]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Return a request, which is mostly valid."""
    odd = draw(st.sampled_from([None] * 8 + ["order", "size", "more", "less", "both", "unknown"]))
    name = draw(st.sampled_from([*MODELS, "app"]))
    specs = draw(st.permutations(MODELS["pair" if name == "app" else name]))
    rows = draw(st.integers(1, 2))
    version = draw(st.sampled_from(["", "", "1", "9"]))
    is_typed = draw(st.integers(0, 4)) == 0
    request = pb.ModelInferRequest()
    if draw(st.integers(0, 3)) == 0:
        key = draw(st.sampled_from(["timeout", "priority", "anything", "triton_x"]))
        request.parameters[key].int64_param = draw(st.sampled_from([0, 1, 50_000_000, -1]))
    for spec in specs:
        tensor = request.inputs.add(name=spec.name, datatype=spec.datatype.name)
        tensor.shape[:] = [rows, *spec.shape[1:]]
        if len(specs) == 1 and draw(st.booleans()):
            tensor.name = ""
        count = rows * (spec.shape[1] if len(spec.shape) > 1 else 1)
        values = draw(st.lists(st.integers(0, 200), min_size=count, max_size=count))
        if spec.datatype is BYTES:
            elements = [b"t" * (each % 7) for each in values]
            if is_typed:
                tensor.contents.bytes_contents.extend(elements)
            else:
                request.raw_input_contents.append(join_bytes_elements(elements))
        elif is_typed:
            getattr(tensor.contents, FIELDS[spec.datatype]).extend(values)
        else:
            data = np.array(values, spec.datatype.dtype).tobytes()
            request.raw_input_contents.append(data)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        request.outputs.add(name=draw(st.sampled_from([*(each.name for each in specs), "nope"])))
    raw = request.raw_input_contents
    if raw and odd == "size":
        raw[0] = raw[0] + b"\0" if draw(st.booleans()) else raw[0][:-1]
    elif odd == "more":
        raw.append(b"")
    elif raw and odd == "less":
        del raw[-1]
    elif odd == "both":
        request.inputs[0].contents.int_contents.append(1)
    elif odd == "unknown":
        request.inputs[-1].name = draw(st.sampled_from(["nope", request.inputs[0].name]))
    named = pb.ModelInferRequest(model_name=name, model_version=version).SerializeToString()
    rest = request.SerializeToString()
    if odd == "order":
        named, rest = rest, named
    query_id = draw(st.sampled_from(IDS))
    if query_id is None:
        return named + rest
    size = len(query_id)
    varint = bytes([size] if size < 0x80 else [size & 0x7F | 0x80, size >> 7])
    identified = b"\x1a" + varint + query_id
    place = draw(st.sampled_from(PLACES))
    if place == "first":
        return identified + named + rest
    if place == "last":
        return named + rest + identified
    if place == "twice":
        return named + b"\x1a\x01o" + identified + rest
    return named + identified + rest


def request_of(model: str, query_id: bytes, **data: bytes) -> bytes:
    """Return a hand-made request, which may be invalid."""
    request = pb.ModelInferRequest()
    for name, each in data.items():
        request.inputs.add(name=name, datatype="INT32" if model == "pair" else "FP32", shape=[1, 2])
        request.raw_input_contents.append(each)
    named = pb.ModelInferRequest(model_name=model).SerializeToString()
    return named + b"\x1a" + bytes([len(query_id)]) + query_id + request.SerializeToString()


SWAPPED = [request_of("pair", b"1", b=bytes([number] * 8), a=bytes(8)) for number in range(3)]
NO_TEXT = [request_of("sole", query_id, x=bytes(8)) for query_id in (b"1", b"\xff")]


@settings(max_examples=examples(150))
@given(st.lists(messages(), min_size=1, max_size=5), st.lists(st.integers(0, 4), max_size=8))
@example(SWAPPED, [])
@example(NO_TEXT, [])
def test_an_answer_does_not_depend_on_earlier_queries(requests, again):
    door, memoryless = (
        Door(*VERSIONS, function=echoed, applications=APPLICATIONS) for _ in range(2)
    )
    for message in (*requests, *(requests[place % len(requests)] for place in again)):
        known, new = door.ask(message), memoryless.ask(message, is_new=True)
        if isinstance(known, pb.ModelInferResponse):
            assert known == new
        else:
            assert (type(known), str(known)) == (type(new), str(new))


@settings(max_examples=examples(150))
@given(messages())
@example(NO_TEXT[1])
def test_an_answer_does_not_depend_on_the_place_of_the_data(message):
    with_copies, without = (
        Door(*VERSIONS, function=echoed, applications=APPLICATIONS) for _ in range(2)
    )
    known = with_copies.ask(message)
    with pytest.MonkeyPatch.context() as patched:
        in_place = replace(grpc_inference.infer_request, whole_bytes=-1)
        patched.setattr(grpc_inference, "infer_request", in_place)
        large = without.ask(message)
    assert without.num_templates == 0
    if isinstance(known, pb.ModelInferResponse):
        assert large == known
    else:
        assert (type(large), str(large)) == (type(known), str(known))

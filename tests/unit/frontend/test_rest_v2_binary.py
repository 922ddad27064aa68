import gzip
import json
import zlib

import numpy as np
import pytest

from skysail_common.tensors import DataType, Signature, TensorSpec, join_bytes_elements
from unit.frontend.doors import MAX_BODY_BYTES, HttpDoors
from unit.frontend.parts import Frontend, TurningLoop, application, echoed, served, signature_of

INFER = "/v2/models/m/infer"
ROW = np.array([0.5, 1.0, 2.0])
X = TensorSpec("x", DataType.FP64, (-1, 3))
Z = TensorSpec("z", DataType.BYTES, (-1,))


def echo(*specs: TensorSpec, **options) -> HttpDoors:
    """Return a model that returns its inputs."""
    version = served(signature=signature_of(*specs or (X,)))
    return HttpDoors(Frontend(version, loop=TurningLoop, function=echoed, **options))


def tensor(data: bytes, name: str = "x", datatype: str = "FP64", shape=(1, 3), **more) -> dict:
    parameters = {"binary_data_size": len(data)}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters, **more}


async def ask(client: HttpDoors, body: object, data: bytes = b"", length: object = None):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Inference-Header-Content-Length": str(len(text) if length is None else length)}
    return await client.post(INFER, text + data, headers)


def parts(response) -> tuple[dict, bytes]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    return json.loads(response.content[:length]), response.content[length:]


async def test_tensors_travel_as_bytes_in_the_order_of_the_json():
    names = join_bytes_elements([b"\xff\0"])
    body = {
        "inputs": [tensor(names, "z", "BYTES", [1]), tensor(ROW.tobytes())],
        "parameters": {"binary_data_output": True},
    }
    answer, data = parts(await ask(echo(X, Z), body, names + ROW.tobytes()))
    assert answer["outputs"] == [tensor(ROW.tobytes()) | {"shape": [1, 3]}, body["inputs"][0]]
    assert data == ROW.tobytes() + names


async def test_an_output_may_differ_from_the_rest():
    names = join_bytes_elements([b"a"])
    body = {
        "inputs": [tensor(ROW.tobytes()), tensor(names, "z", "BYTES", [1])],
        "outputs": [{"name": "x"}, {"name": "z", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": True},
    }
    answer, data = parts(await ask(echo(X, Z), body, ROW.tobytes() + names))
    assert answer["outputs"][1]["data"] == ["a"]
    assert data == ROW.tobytes()


async def test_binary_inputs_are_answered_as_json_unless_asked_otherwise():
    response = await ask(echo(), {"inputs": [tensor(ROW.tobytes())]}, ROW.tobytes())
    assert response.headers["content-type"] == "application/json"
    assert response.json()["outputs"][0]["data"] == ROW.tolist()


async def test_json_inputs_can_be_answered_as_bytes():
    inputs = [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": ROW.tolist()}]
    outputs = [{"name": "x", "parameters": {"binary_data": True}}]
    response = await echo().post(INFER, {"inputs": inputs, "outputs": outputs})
    assert parts(response)[1] == ROW.tobytes()


async def test_bf16_travels_as_bytes():
    body = {
        "inputs": [tensor(b"\x80\x3f", "b", "BF16", [1, 1])],
        "parameters": {"binary_data_output": True},
    }
    client = echo(TensorSpec("b", DataType.BF16, (-1, 1)))
    assert parts(await ask(client, body, b"\x80\x3f"))[1] == b"\x80\x3f"


async def test_a_default_output_is_answered_as_bytes_too():
    client = echo(applications=[application("app", default=7.5)])
    body = {"inputs": [tensor(ROW.tobytes())], "parameters": {"binary_data_output": True}}
    text = json.dumps(body).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    response = await client.post("/v2/models/app/infer", text + ROW.tobytes(), headers)
    answer, data = parts(response)
    assert answer["parameters"]["skysail_outcome"] == "DEFAULT_NO_REPLICA"
    assert np.frombuffer(data) == [7.5]


@pytest.mark.parametrize(
    ("spec", "content", "data", "shape"),
    [
        (X, ROW.tobytes(), ROW.tobytes(), [1, 3]),
        (TensorSpec("x", DataType.FP64, (-1, -1)), ROW.tobytes(), ROW.tobytes(), [1, 3]),
        (Z, b"text", join_bytes_elements([b"text"]), [1]),
    ],
)
async def test_a_body_without_json_is_the_data_of_the_only_input(spec, content, data, shape):
    version = served(signature=Signature((spec,), (TensorSpec("y", spec.datatype, spec.shape),)))
    answered = []

    def function(query):
        answered.append((query.inputs, query.rows))
        # A variable size is the same in the answer.
        return type(echoed(query))([query.inputs[0]], [tuple(shape)])

    client = HttpDoors(Frontend(version, loop=TurningLoop, function=function))
    answer, got = parts(await ask(client, content, length=0))
    assert answered == [((data,), 1)]
    assert (answer["outputs"][0]["shape"], got) == (shape, data)


ONE = {"inputs": [tensor(ROW.tobytes())]}
DATA = ROW.tobytes()


def changed(**changes: object) -> dict:
    return {"inputs": [{**ONE["inputs"][0], **changes}]}


@pytest.mark.parametrize(
    ("body", "data", "length", "error"),
    [
        (ONE, DATA, -1, "Inference-Header-Content-Length must be the length of the JSON"),
        (ONE, DATA, "many", "Inference-Header-Content-Length must be the length of the JSON"),
        (ONE, DATA, "9" * 5000, "Inference-Header-Content-Length must be the length of the JSON"),
        (ONE, DATA, "١", "Inference-Header-Content-Length must be the length of the JSON"),
        (ONE, DATA, 1000, "Inference-Header-Content-Length must be the length of the JSON"),
        (ONE, DATA, 20, "Error parsing JSON: "),
        (
            ONE,
            DATA[:-1],
            None,
            "input 'x' has a 'binary_data_size' of 24, but the body has only 23",
        ),
        (ONE, b"", None, "input 'x' has a 'binary_data_size' of 24, but the body has only 0 bytes"),
        (ONE, DATA + b"12", None, "the body has 2 bytes more than its inputs take"),
        (
            changed(parameters={"binary_data_size": 23}),
            DATA[:23],
            None,
            "[request id: <id_unknown>] input byte size mismatch for input 'x' for model 'm'. "
            "Expected 24, got 23",
        ),
        (
            changed(parameters={"binary_data_size": -1}),
            b"",
            None,
            "input 'x' needs a 'binary_data_",
        ),
        (changed(parameters={"binary_data_size": "1"}), b"", None, "input 'x' needs a 'binary_da"),
        (changed(parameters={"binary_data_size": True}), b"1", None, "input 'x' needs a 'binary_"),
        (changed(parameters={"binary_data_size": 10**18}), b"1", None, "input 'x' has a 'binary_"),
        (changed(data=[1, 2, 3]), DATA, None, "input 'x' has both 'data' and a 'binary_data_size'"),
        (
            {**ONE, "parameters": {"binary_data_output": 1}},
            DATA,
            None,
            "invalid value type for 'binary_data_output' parameter, expected bool_param.",
        ),
        (
            {**ONE, "outputs": [{"name": "x", "parameters": {"binary_data": "yes"}}]},
            DATA,
            None,
            "invalid value type for 'binary_data' parameter, expected bool_param.",
        ),
        (b"", b"", 0, "Error parsing JSON: "),
        (b"123", b"", 0, "[request id: <id_unknown>] input byte size mismatch for input 'x'"),
    ],
)
async def test_sizes_that_are_wrong_are_refused(body, data, length, error):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    shown = str(len(text) if length is None else length)
    headers = [(b"Inference-Header-Content-Length", shown.encode())]
    client = echo()
    response = await client.post(INFER, text + data, headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"].startswith(error)
    assert client.frontend.dispatcher.num_unsettled == 0


async def test_a_model_with_several_inputs_refuses_a_body_without_json():
    response = await ask(echo(X, Z), DATA, length=0)
    assert response.status_code == 400
    assert response.json()["error"].startswith("model 'm' cannot take a body without JSON")


# The gzip header has no time, so that parametrised tests have the same names in all processes.
GZIPPED = gzip.compress(b"{}", mtime=0)
COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP"])
async def test_a_body_may_be_compressed(encoding):
    text = json.dumps(ONE).encode()
    headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Encoding": encoding}
    response = await echo().post(INFER, COMPRESS[encoding.lower()](text + DATA), headers)
    assert response.status_code == 200, response.text
    assert response.json()["outputs"][0]["data"] == ROW.tolist()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_decompresses_beyond_the_limit_is_refused(encoding):
    compress, headers = COMPRESS[encoding], {"Content-Encoding": encoding}
    just = compress(b'{"inputs": []}'.ljust(MAX_BODY_BYTES))
    assert (await echo().post(INFER, just, headers)).status_code == 400
    bomb = compress(bytes(100 * MAX_BODY_BYTES))
    assert len(bomb) < MAX_BODY_BYTES
    response = await echo().post(INFER, bomb, headers)
    assert response.status_code == 413
    assert response.json()["error"].endswith(
        f"the limit of {MAX_BODY_BYTES} bytes, which SKYSAIL_FRONTEND_MAX_MESSAGE_MIB sets"
    )


@pytest.mark.parametrize(
    ("body", "encoding", "error"),
    [
        (b"{}", "gzip", "the body cannot be decompressed by gzip: "),
        (GZIPPED, "deflate", "the body cannot be decompressed by deflate: "),
        (GZIPPED[:-1], "gzip", "the body ends before the end of its gzip data"),
        (GZIPPED + b"x", "gzip", "the body goes on after the end of its gzip data"),
        (b"{}", "br", "the body has content encoding 'br'; known are gzip, deflate"),
    ],
)
async def test_a_body_with_a_wrong_content_encoding_is_refused(body, encoding, error):
    response = await echo().post(INFER, body, {"Content-Encoding": encoding})
    assert response.status_code == 400
    assert response.json()["error"].startswith(error)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "X-GZIP"])
async def test_a_gzip_body_may_come_in_members(coding):
    row = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": ROW.tolist()}
    body = json.dumps({"inputs": [row]}).encode()
    members = gzip.compress(body[:9]) + gzip.compress(b"") + gzip.compress(body[9:])
    response = await echo().post(INFER, members, {"content-encoding": coding})
    assert response.status_code == 200, response.text


async def test_json_that_grows_too_much_is_refused_but_not_a_binary_tensor():
    size = 2 * 2**20
    version = served(signature=signature_of(TensorSpec("x", DataType.FP32, (-1, size))))
    client = HttpDoors(Frontend(version, loop=TurningLoop, function=echoed), max_bytes=16 * 2**20)
    text = gzip.compress(b'{"inputs":[' + b"1," * 4_000_000 + b"1]}")
    response = await client.post(INFER, text, {"content-encoding": "gzip"})
    assert response.status_code == 413
    assert response.json()["error"] == (
        f"the body of {len(text)} bytes grows to more than 4194304 when it is decompressed; send it "
        "uncompressed or as binary tensors"
    )
    headers = {"content-encoding": "gzip", "Inference-Header-Content-Length": "0"}
    response = await client.post(INFER, gzip.compress(bytes(4 * size)), headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-length"] > str(4 * size)
    assert client.memory.num_bytes == 0

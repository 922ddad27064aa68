"""Clients other than grpcio: C++, Node, tritonclient, grpcurl."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, empty_pb2
from grpc_health.v1 import health_pb2
from harness import Server

CLIENTS = Path(__file__).parent / "clients"
GRPC_JS = "@grpc/grpc-js@1.14.7"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"


def run(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    env = {**os.environ, **(environment or {})}
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, env=env)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.fixture(scope="session")
def cpp_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    has_library = shutil.which("pkg-config") and subprocess.run(
        ["pkg-config", "--exists", "grpc++"]
    ).returncode == 0  # fmt: skip
    if not has_library:
        pytest.skip("the C++ library of gRPC is not installed (libgrpc++-dev, pkg-config)")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True, check=True
    )
    program = tmp_path_factory.mktemp("cpp") / "client"
    run("g++", "-std=c++17", CLIENTS / "client.cc", "-o", program, *flags.stdout.split())
    return program


def test_cpp(server: Server, cpp_client: Path) -> None:
    run(cpp_client, server.address)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    if shutil.which("npm") is None:
        pytest.skip("Node and npm are not installed")
    # The installation is cached, because it takes seconds and needs the registry.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    prefix = cache / "skysail" / GRPC_JS.replace("/", "-")
    if not (prefix / "node_modules" / "@grpc" / "grpc-js").is_dir():
        prefix.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(prefix), GRPC_JS]
        try:
            result = subprocess.run(command, capture_output=True, timeout=45)
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm could not install {GRPC_JS} in time")
        if result.returncode != 0:
            pytest.skip(f"npm could not install {GRPC_JS}")
    return prefix / "node_modules"


def test_node(server: Server, node_modules: Path) -> None:
    program = CLIENTS / "client.js"
    run("node", program, server.address, environment={"NODE_PATH": str(node_modules)})


@pytest.fixture
def triton_server(serve: Callable[..., Server]) -> Server:
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    from tritonclient.grpc import service_pb2 as pb

    def infer(message: bytes) -> pb.ModelInferResponse:
        request = pb.ModelInferRequest.FromString(message)
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        tensor = request.inputs[0]
        response.outputs.add(name="y", datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(request.raw_input_contents[0])
        return response

    def stream_infer(message: bytes) -> bytes:
        return pb.ModelStreamInferResponse(infer_response=infer(message)).SerializeToString()

    return serve(
        unary={MODEL_INFER: lambda message: infer(message).SerializeToString()},
        streams={STREAM_INFER: stream_infer},
    )


def test_tritonclient(triton_server: Server) -> None:
    import numpy as np
    import tritonclient.grpc as triton

    data = np.arange(64, dtype=np.float32).reshape(1, 64)
    tensor = triton.InferInput("x", [1, 64], "FP32")
    tensor.set_data_from_numpy(data)
    answers: list = []
    with triton.InferenceServerClient(triton_server.address) as client:
        for compression in (None, "gzip"):
            result = client.infer("m", [tensor], request_id="7", compression_algorithm=compression)
            assert (result.as_numpy("y") == data).all()
            assert result.get_response().id == "7"
        client.start_stream(lambda result, error: answers.append((result, error)))
        for number in range(50):
            client.async_stream_infer("m", [tensor], request_id=str(number))
        triton_server.until(lambda: len(answers) == 50)
        client.stop_stream()
    assert [error for _, error in answers if error] == []
    assert [result.get_response().id for result, _ in answers] == [str(n) for n in range(50)]


def test_tritonclient_aio(triton_server: Server) -> None:
    import numpy as np
    import tritonclient.grpc.aio as triton

    data = np.arange(64, dtype=np.float32).reshape(1, 64)
    tensor = triton.InferInput("x", [1, 64], "FP32")
    tensor.set_data_from_numpy(data)

    async def requests():
        for number in range(20):
            yield {"model_name": "m", "inputs": [tensor], "request_id": str(number)}

    async def run_all() -> None:
        async with triton.InferenceServerClient(triton_server.address) as client:
            results = await asyncio.gather(*(client.infer("m", [tensor]) for _ in range(300)))
            assert all((result.as_numpy("y") == data).all() for result in results)
            ids = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                ids.append(result.get_response().id)
            assert ids == [str(number) for number in range(20)]

    asyncio.run(run_all())


@pytest.fixture
def grpcurl(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    if shutil.which("grpcurl") is None:
        pytest.skip("grpcurl is not installed")
    files = descriptor_pb2.FileDescriptorSet()
    for module in (health_pb2, empty_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    nope = files.file.add(name="nope.proto", package="test", syntax="proto3")
    nope.dependency.append(empty_pb2.DESCRIPTOR.name)
    service = nope.service.add(name="Unknown")
    empty = ".google.protobuf.Empty"
    service.method.add(name="Nope", input_type=empty, output_type=empty)
    (tmp_path / "protos").write_bytes(files.SerializeToString())

    def ask(address: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["grpcurl", "-plaintext", "-max-time", "5", "-protoset", str(tmp_path / "protos")]
        return subprocess.run(
            [*command, *words[:-1], address, words[-1]], capture_output=True, text=True, timeout=20
        )

    return ask


def test_grpcurl(server: Server, grpcurl: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    server.engine.set_health("", 1)
    server.engine.set_health("model", 2)
    check = "grpc.health.v1.Health/Check"
    answer = grpcurl(server.address, check)
    assert (answer.returncode, json.loads(answer.stdout)) == (0, {"status": "SERVING"})
    answer = grpcurl(server.address, "-d", '{"service": "model"}', check)
    assert json.loads(answer.stdout) == {"status": "NOT_SERVING"}
    answer = grpcurl(server.address, "-d", '{"service": "other"}', check)
    assert "Code: NotFound" in answer.stderr
    answer = grpcurl(server.address, "test.Unknown/Nope")
    assert "Code: Unimplemented" in answer.stderr
    assert "unknown method /test.Unknown/Nope" in answer.stderr

"""A model server whose function does not return ends itself and says where it was."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from skysail.artifact import build_artifact
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.link_identity import identity_metadata
from skysail_common.rpc.transports import open_transport, uses_native
from skysail_common.states import ExitCode
from skysail_protos.v1 import model_server_pb2 as pb
from skysail_testing.processes import Service

PATH = "/skysail.v1.ModelServer/PredictBatches"
VERSION = ModelVersion("m", "1")


def waits(x):
    import threading

    if x.max() > 0:
        threading.Event().wait()
    return x


def keeps_the_interpreter(x):
    import ctypes

    if x.max() > 0:
        # PyDLL does not let go of the interpreter during a call.
        ctypes.PyDLL(None).sleep(60)
    return x


def batch(number: int, value: float) -> bytes:
    message = pb.Batch(id=number, rows=[1], inputs=[np.full(1, value).tobytes()])
    return message.SerializeToString()


class Observer:
    def __init__(self) -> None:
        self.results: asyncio.Queue[pb.BatchResult] = asyncio.Queue()

    def link_received(self, message: bytes) -> None:
        result = pb.BatchResult.FromString(message)
        if result.id:
            self.results.put_nowait(result)

    def link_closed(self, reason: str, has_died: bool) -> None:
        pass


@pytest.mark.parametrize("name", ["grpc", "native"])
@pytest.mark.parametrize(
    ("function", "status", "told"),
    [
        (waits, ExitCode.STUCK, "function is stuck"),
        # Only faulthandler can still do something, and it knows one status.
        (keeps_the_interpreter, 1, "Timeout"),
    ],
)
async def test_a_stuck_function_ends_its_replica(name, function, status, told, tmp_path: Path):
    if name == "native" and not uses_native("auto"):
        pytest.skip("native transport is not installed")
    artifact = build_artifact(function, example=np.zeros((1, 1)))
    (tmp_path / "artifact.zip").write_bytes(artifact.content)
    endpoint = f"unix:{tmp_path}/s"
    environment = {
        "SKYSAIL_TRANSPORT": name,
        "SKYSAIL_MODEL_SERVER_REPLICA_ID": f"{VERSION}/0",
        "SKYSAIL_MODEL_SERVER_ARTIFACT_FILE": str(tmp_path / "artifact.zip"),
        "SKYSAIL_MODEL_SERVER_WORK_DIR": str(tmp_path),
        "SKYSAIL_MODEL_SERVER_LISTEN_ADDRESS": endpoint,
        "SKYSAIL_MODEL_SERVER_STUCK_AFTER_S": "0.5",
    }
    service = Service("skysail_model_server", [], environment)
    transport = open_transport(name, 1 << 20)
    try:
        await asyncio.to_thread(service.wait_ready)
        observer = Observer()
        identity = identity_metadata(VERSION, artifact.sha256)
        link = await transport.connect(endpoint, PATH, observer, identity)
        link.send(batch(1, 0.0))
        # A function that keeps the interpreter keeps earlier results too.
        result = await asyncio.wait_for(observer.results.get(), 10)
        assert result.id == 1
        link.send(batch(2, 1.0))
        assert await asyncio.to_thread(service.wait) == status
        assert told in service.errors
        assert f"in {function.__name__}" in service.errors
        link.close()
    finally:
        if service.process.poll() is None:
            service.kill()
        transport.close()

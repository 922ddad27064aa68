"""A model server process, and a link to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from skysail.artifact.build import Artifact
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.contract import Link, Metadata, Transport
from skysail_common.rpc.link_identity import identity_metadata
from skysail_common.rpc.transports import open_transport, uses_native
from skysail_protos.v1 import model_server_pb2 as pb
from skysail_testing.artifacts import lay_out
from skysail_testing.processes import Service

VERSION = ModelVersion("m", "1")
_PATH = "/skysail.v1.ModelServer/PredictBatches"


class Results:
    """A queue of the results of a link."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[pb.BatchResult] = asyncio.Queue()

    def link_received(self, message: bytes) -> None:
        result = pb.BatchResult.FromString(message)
        if result.id:
            self._queue.put_nowait(result)

    def link_closed(self, reason: str, has_died: bool) -> None:
        pass

    async def next(self) -> pb.BatchResult:
        return await asyncio.wait_for(self._queue.get(), 10)


class ModelServer:
    """A ready replica of `VERSION`."""

    def __init__(
        self, service: Service, transport: Transport, endpoint: str, artifact: Artifact
    ) -> None:
        self.service = service
        self.artifact = artifact
        self._transport = transport
        self.endpoint = endpoint

    async def connect(self, results: Results, metadata: Metadata | None = None) -> Link:
        """Open a link, by default with the identity of the replica."""
        if metadata is None:
            metadata = identity_metadata(VERSION, self.artifact.sha256)
        return await self._transport.connect(self.endpoint, _PATH, results, metadata)


def batch_of(number: int, *values: float) -> bytes:
    """Return the message of a batch of one row of float64."""
    message = pb.Batch(id=number, rows=[1], inputs=[np.array(values, "<f8").tobytes()])
    return message.SerializeToString()


@asynccontextmanager
async def running_model_server(
    artifact: Artifact, name: str, directory: Path, **settings: str
) -> AsyncIterator[ModelServer]:
    """Run a model server on a transport until the context ends."""
    if name == "native" and not uses_native("auto"):
        pytest.skip("native transport is not installed")
    lay_out(artifact, directory / "artifact")
    endpoint = f"unix:{directory}/s"
    given = {
        "REPLICA_ID": f"{VERSION}/0",
        "ARTIFACT_DIR": str(directory / "artifact"),
        "ARTIFACT_SHA256": artifact.sha256,
        "WORK_DIR": str(directory),
        "LISTEN_ADDRESS": endpoint,
        **settings,
    }
    environment = {f"SKYSAIL_MODEL_SERVER_{key}": value for key, value in given.items()}
    service = Service("skysail_model_server", [], {"SKYSAIL_TRANSPORT": name, **environment})
    transport = open_transport(name, 1 << 20)
    try:
        await asyncio.to_thread(service.wait_ready)
        yield ModelServer(service, transport, endpoint, artifact)
    finally:
        transport.close()
        if service.process.poll() is None:
            service.kill()

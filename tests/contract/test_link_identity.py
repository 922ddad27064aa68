"""A model server takes only batches that are meant for what it runs, on every transport."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from skysail.artifact import build_artifact
from skysail_common.errors import FailedPrecondition
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.link_identity import identity_metadata
from skysail_common.rpc.transports import open_transport, uses_native
from skysail_protos.v1 import model_server_pb2 as pb
from skysail_testing.processes import Service

PATH = "/skysail.v1.ModelServer/PredictBatches"
VERSION = ModelVersion("m", "1")


def doubles(x):
    return x * 2


ARTIFACT = build_artifact(doubles, example=np.ones((1, 3)))


class Observer:
    def __init__(self) -> None:
        self.results: asyncio.Queue[pb.BatchResult] = asyncio.Queue()

    def link_received(self, message: bytes) -> None:
        result = pb.BatchResult.FromString(message)
        if result.id:
            self.results.put_nowait(result)

    def link_closed(self, reason: str, has_died: bool) -> None:
        pass


@pytest.fixture(params=["grpc", "native"])
async def peer(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    if request.param == "native" and not uses_native("auto"):
        pytest.skip("native transport is not installed")
    (tmp_path / "artifact.zip").write_bytes(ARTIFACT.content)
    endpoint = f"unix:{tmp_path}/s"
    environment = {
        "SKYSAIL_TRANSPORT": request.param,
        "SKYSAIL_MODEL_SERVER_REPLICA_ID": f"{VERSION}/0",
        "SKYSAIL_MODEL_SERVER_ARTIFACT_FILE": str(tmp_path / "artifact.zip"),
        "SKYSAIL_MODEL_SERVER_WORK_DIR": str(tmp_path),
        "SKYSAIL_MODEL_SERVER_LISTEN_ADDRESS": endpoint,
    }
    service = Service("skysail_model_server", [], environment)
    transport = open_transport(request.param, 1 << 20)
    try:
        await asyncio.to_thread(service.wait_ready)
        yield SimpleNamespace(transport=transport, endpoint=endpoint)
    finally:
        transport.close()
        assert await asyncio.to_thread(service.stop) == 0


async def test_batches_for_another_version_or_other_content_are_refused(peer):
    for metadata, text in [
        (identity_metadata(ModelVersion("n", "1"), ARTIFACT.sha256), "this is a replica of m:1"),
        (identity_metadata(ModelVersion("m", "2"), ARTIFACT.sha256), "this is a replica of m:1"),
        (identity_metadata(VERSION, "0" * 64), "other content"),
        ((), "this is a replica of m:1"),
    ]:
        with pytest.raises(FailedPrecondition, match=text):
            await peer.transport.connect(peer.endpoint, PATH, Observer(), metadata)
    observer = Observer()
    link = await peer.transport.connect(
        peer.endpoint, PATH, observer, identity_metadata(VERSION, ARTIFACT.sha256)
    )
    link.send(pb.Batch(id=1, rows=[1], inputs=[np.ones(3).tobytes()]).SerializeToString())
    result = await asyncio.wait_for(observer.results.get(), 10)
    assert np.frombuffer(result.outputs[0]).tolist() == [2, 2, 2]
    link.close()

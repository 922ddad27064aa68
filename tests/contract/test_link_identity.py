"""A model server accepts only batches for its own version and artifact, on every transport."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from skysail.artifact.build import build_artifact
from skysail_common.errors import FailedPrecondition
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.link_identity import identity_metadata
from skysail_testing.model_servers import (
    VERSION,
    ModelServer,
    Results,
    batch_of,
    running_model_server,
)


def doubles(x):
    return x * 2


ARTIFACT = build_artifact(doubles, example=np.ones((1, 3)))


@pytest.fixture(params=["grpc", "native"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ModelServer]:
    async with running_model_server(ARTIFACT, request.param, tmp_path) as server:
        yield server
        assert await asyncio.to_thread(server.service.stop) == 0


async def test_batches_for_another_version_or_artifact_are_refused(server):
    for metadata, text in [
        (identity_metadata(ModelVersion("n", "1"), ARTIFACT.sha256), "this is a replica of m:1"),
        (identity_metadata(ModelVersion("m", "2"), ARTIFACT.sha256), "this is a replica of m:1"),
        (identity_metadata(VERSION, "0" * 64), "other content"),
        ((), "this is a replica of m:1"),
    ]:
        with pytest.raises(FailedPrecondition, match=text):
            await server.connect(Results(), metadata)
    results = Results()
    link = await server.connect(results)
    link.send(batch_of(1, 1, 1, 1))
    result = await results.next()
    assert np.frombuffer(result.outputs[0]).tolist() == [2, 2, 2]
    link.close()

"""A replica describes the model that it has loaded, on every transport."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from skysail.artifact.build import Artifact, build_artifact
from skysail_common.artifacts import SignatureRecord
from skysail_common.errors import FailedPrecondition, Unavailable
from skysail_common.tensors import DataType, Signature, TensorSpec
from skysail_management.containers.description import describe_model
from skysail_testing.model_servers import VERSION, ModelServer, running_model_server


def halves(x):
    return {"half": x / 2, "sign": x[:, 0] > 0}


COMPLETE = build_artifact(halves, example=np.ones((1, 3)))
UNKNOWN = Artifact(
    COMPLETE.manifest.model_copy(
        update={
            "signature": SignatureRecord.of(Signature(COMPLETE.signature.inputs, ())),
            "packages": {"numpy": "1.0"},
        }
    ),
    COMPLETE.files,
)


@pytest.fixture(params=["grpc", "native"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ModelServer]:
    async with running_model_server(UNKNOWN, request.param, tmp_path) as server:
        yield server
        assert await asyncio.to_thread(server.service.stop) == 0


async def test_a_replica_tells_what_it_learned(server: ModelServer):
    found = await describe_model(server.endpoint, VERSION, UNKNOWN.sha256)
    assert found.learned_signature == COMPLETE.signature
    assert found.learned_signature.outputs == (
        TensorSpec("half", DataType.FP64, (-1, 3)),
        TensorSpec("sign", DataType.BOOL, (-1,)),
    )
    (difference,) = found.package_differences
    assert difference.package == "numpy"
    assert (difference.deployed_version, difference.installed_version) == ("1.0", np.__version__)


async def test_a_replica_of_something_else_says_so(server: ModelServer):
    with pytest.raises(FailedPrecondition, match="this is a replica of m:1"):
        await describe_model(server.endpoint, VERSION._replace(version="2"), UNKNOWN.sha256)
    with pytest.raises(FailedPrecondition, match="this replica runs other content"):
        await describe_model(server.endpoint, VERSION, COMPLETE.sha256)


async def test_a_replica_that_is_gone_does_not_answer(tmp_path: Path):
    with pytest.raises(Unavailable):
        await describe_model(f"unix:{tmp_path}/none", VERSION, UNKNOWN.sha256)

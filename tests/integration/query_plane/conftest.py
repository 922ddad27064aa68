"""The one cluster that the tests of this package share."""

import asyncio
from collections.abc import Iterator

import grpc
import httpx
import pytest

from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_testing.clusters import (
    running_cluster,
)
from skysail_testing.query_plane import Plane, deploy_all


@pytest.fixture(scope="package")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running_cluster(tmp_path_factory.mktemp("q"), "--log-level", "info") as cluster:
        asyncio.run(deploy_all(cluster))
        # Answers of any size are taken: the server's limit is what counts.
        options = [("grpc.max_receive_message_length", -1)]
        with (
            cluster.client() as client,
            grpc.insecure_channel(cluster.grpc, options) as channel,
            httpx.Client(base_url=f"http://{cluster.http}", verify=False, timeout=20) as http,
        ):
            yield Plane(cluster, client, channel, http)


@pytest.fixture(scope="module")
def double() -> str:
    return "double"


@pytest.fixture
def untuned(plane: Plane, double: str) -> Iterator[str]:
    """A model whose options a test may change."""
    yield double
    plane.client.tune(double, **vars(ServingOptions()))


@pytest.fixture(scope="module")
def napping(plane: Plane) -> str:
    """A model that takes as long as it is told, and whose queries are never given up before."""
    plane.client.tune("napping", **vars(ServingOptions(policy=PolicyName.EAGER)))
    return "napping"


@pytest.fixture(scope="module")
def steady(plane: Plane) -> str:
    """A model that answers one row at a time, 20 in a second."""
    plane.client.tune("steady", **vars(ServingOptions(max_batch_size=1)))
    plane.client.register_application("promised", slo_ms=200)
    plane.client.link("promised", "steady")
    plane.client.register_application("promised-default", default_output=[-1], slo_ms=200)
    plane.client.link("promised-default", "steady")
    return "steady"

"""The transports that run through the same tests."""

import importlib.util
from collections.abc import AsyncIterator

import pytest

from skysail_common.rpc.contract import Transport
from skysail_common.rpc.transports import open_transport
from skysail_testing.transports import LIMIT_BYTES


@pytest.fixture(params=["grpc", "native"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    if request.param == "native" and importlib.util.find_spec("skysail_transport") is None:
        pytest.skip("native transport is not installed")
    transport = open_transport(request.param, LIMIT_BYTES)
    yield transport
    transport.close()

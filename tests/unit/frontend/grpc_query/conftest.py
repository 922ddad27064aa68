import asyncio

import pytest

from unit.frontend.grpc_query.streams import Streaming


@pytest.fixture
async def streaming():
    """Yield a frontend with one open stream."""
    streaming = Streaming()
    yield streaming
    streaming.serving.cancel()
    await asyncio.gather(streaming.serving, return_exceptions=True)

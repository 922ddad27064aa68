import pytest

from unit.frontend.grpc_inference.calls import simple
from unit.frontend.parts import Frontend, doubled, served


@pytest.fixture
def frontend() -> Frontend:
    """Return a frontend with two versions of `m` and with `simple`."""
    return Frontend(served("m:1", is_current=False), served("m:2"), simple, function=doubled)

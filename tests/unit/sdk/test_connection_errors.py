import grpc
import grpc.aio
import pytest

from skysail.connection_errors import is_lost

CASES = [
    (grpc.StatusCode.UNAVAILABLE, "Socket closed", True),
    (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", False),
    # grpc.aio raises this if a request is written to a connection that just broke.
    (grpc.StatusCode.INTERNAL, "Internal error from Core", True),
    (grpc.StatusCode.INTERNAL, "internal error", False),
    (grpc.StatusCode.NOT_FOUND, "Internal error from Core", False),
]


@pytest.mark.parametrize(("code", "details", "expected"), CASES)
def test_a_call_is_lost_if_its_connection_broke(code, details: str, expected: bool):
    trailers = grpc.aio.Metadata()
    assert is_lost(grpc.aio.AioRpcError(code, trailers, trailers, details)) is expected


def test_an_error_of_management_is_no_lost_connection():
    trailers = grpc.aio.Metadata(("skysail-reason", "Unavailable"))
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers, "Socket closed"
    )
    assert not is_lost(error)

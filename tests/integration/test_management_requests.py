"""Malformed and oversized requests to management."""

import grpc
import pytest

from skysail_protos.v1 import management_pb2
from skysail_testing.clusters import RunningCluster

SERVICE = management_pb2.DESCRIPTOR.services_by_name["ManagementService"]
MALFORMED = {"tag": b"\xff\xff", "length": b"\x0a\xff\xff\xff\xff\x0f", "text": b"\x0a\x01\xff"}
UPLOAD = SERVICE.methods_by_name["UploadArtifact"]


def error_of(cluster: RunningCluster, method, *contents: bytes) -> grpc.RpcError:
    """Return the error with which management answers messages of a method."""
    with grpc.insecure_channel(cluster.management) as channel:
        # grpcio has another function for each kind of call.
        name = f"{'stream' if method.client_streaming else 'unary'}_stream"
        call = getattr(channel, name)(f"/{SERVICE.full_name}/{method.name}")
        with pytest.raises(grpc.RpcError) as raised:
            list(call(iter(contents) if method.client_streaming else contents[0], timeout=10))
        return raised.value


@pytest.mark.parametrize("content", list(MALFORMED.values()), ids=list(MALFORMED))
@pytest.mark.parametrize("method", list(SERVICE.methods), ids=lambda method: method.name)
def test_a_malformed_message_is_refused_in_one_line(cluster, method, content):
    if method.input_type.fields == []:
        content = b"\xff\xff"
    elif method is UPLOAD and content == MALFORMED["text"]:
        content = MALFORMED["length"]
    error = error_of(cluster, method, content)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    assert error.details() == (
        f"cannot parse a request of /{SERVICE.full_name}/{method.name}: it is not a protobuf message "
        "of its type"
    )
    log = (cluster.data_dir / "logs" / "cluster.log").read_text()
    assert "Traceback" not in log


def test_a_malformed_later_message_of_a_stream_is_refused(cluster):
    first = management_pb2.UploadArtifactRequest(sha256="0" * 64).SerializeToString()
    error = error_of(cluster, UPLOAD, first, b"\xff\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "cannot parse a request" in error.details()


@pytest.mark.parametrize("method", ["StreamLogs", "DescribeVersion", "Deploy", "Promote", "Scale"])
def test_a_name_of_10000_characters_is_refused_with_a_short_text(cluster, method):
    found = SERVICE.methods_by_name[method]
    request = getattr(management_pb2, found.input_type.name)(model="ä" * 10_000, version="1")
    error = error_of(cluster, found, request.SerializeToString())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == (
        "cannot accept model: it has 10000 characters; at most 1000 are allowed"
    )

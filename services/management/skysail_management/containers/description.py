"""The description of a loaded model, which management asks from its replica."""

import grpc
import grpc.aio

from skysail_common.identifiers import ModelVersion
from skysail_common.replica_description import ReplicaDescription
from skysail_common.rpc.channels import open_channel
from skysail_common.rpc.link_identity import identity_metadata
from skysail_common.rpc.messages import description_from_proto
from skysail_common.rpc.statuses import from_rpc_error
from skysail_protos.v1 import model_server_pb2, model_server_pb2_grpc

_TIMEOUT_S = 3.0
_MAX_BYTES = 4 * 1024 * 1024


async def describe_model(
    endpoint: str, version: ModelVersion, artifact_sha256: str
) -> ReplicaDescription:
    """Return the description of the model that a replica has loaded.

    The description is empty if the model server is of an earlier Skysail, which has none.

    Raises:
        InvalidInput: the description is invalid.
        SkysailError: the replica does not answer in time, or is one of another version.
    """
    async with open_channel(endpoint, _MAX_BYTES) as channel:
        stub = model_server_pb2_grpc.ModelServerStub(channel)
        request = model_server_pb2.DescribeLoadedModelRequest()
        metadata = identity_metadata(version, artifact_sha256)
        try:
            response = await stub.DescribeLoadedModel(
                request, metadata=metadata, timeout=_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return ReplicaDescription()
            raise from_rpc_error(error) from None
    return description_from_proto(response)

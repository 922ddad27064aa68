"""The methods that replicas call, on a separate port or on the main one.

Replicas run the code of users and may reach management for these methods only. On a separate port
they are the only registered handlers, so that other requests are rejected unread.
"""

import os
from collections.abc import AsyncIterator
from typing import IO, Any

import grpc
import grpc.aio

from skysail_common.artifacts import CHUNK_BYTES
from skysail_common.errors import InvalidInput, Unauthenticated
from skysail_common.identifiers import ReplicaId
from skysail_common.process.threads import in_thread
from skysail_common.rpc.grpc_server import GrpcServer
from skysail_common.rpc.management_access import token_of
from skysail_common.tokens import is_token_of
from skysail_management.artifacts.store import ArtifactStore
from skysail_management.operations.models import Models
from skysail_protos.v1 import management_pb2 as pb

SERVICE = "skysail.v1.ManagementService"

METHODS = ("DownloadArtifact", "DownloadBlob")
"""Methods of the service that replicas call."""

MAX_MESSAGE_BYTES = 2 * CHUNK_BYTES
"""Limit above the size of any message in either direction."""


class ArtifactServicer:
    """Serves to each replica the artifact of its version."""

    def __init__(self, secret: str, models: Models, artifacts: ArtifactStore) -> None:
        """Serve `artifacts` to callers whose token was made with `secret`."""
        self._secret = secret
        self._models = models
        self._artifacts = artifacts

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        """Yield the SHA-256 of the artifact, then the content of its manifest or archive."""
        sha256 = self._artifact_of(request.replica_id, context)
        with await in_thread(self._artifacts.open, sha256) as file:
            yield pb.DownloadArtifactResponse(sha256=sha256)
            async for chunk in _chunks(file):
                yield pb.DownloadArtifactResponse(chunk=chunk)

    async def DownloadBlob(
        self, request: pb.DownloadBlobRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[pb.DownloadBlobResponse]:
        """Yield the content of a blob of the artifact, from the offset on."""
        sha256 = self._artifact_of(request.replica_id, context)
        with await in_thread(self._artifacts.open_blob, sha256, request.sha256) as file:
            size = os.fstat(file.fileno()).st_size
            if request.offset > size:
                raise InvalidInput(
                    f"cannot serve the blob from byte {request.offset} on: it has {size} bytes"
                )
            file.seek(request.offset)
            async for chunk in _chunks(file):
                yield pb.DownloadBlobResponse(chunk=chunk)

    def _artifact_of(self, replica_id: str, context: "grpc.aio.ServicerContext[Any, Any]") -> str:
        """Return the artifact that the caller may read.

        Raises:
            Unauthenticated: the token of the caller does not belong to a replica of that name.
        """
        version = ReplicaId.parse(replica_id).model_version
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        token = token_of(metadata)
        record = self._models.find(version)
        if record is None or not is_token_of(token, self._secret, version, record.artifact_sha256):
            raise Unauthenticated(
                f"cannot serve the artifact: the token does not belong to a replica of {str(version)!r}, "
                "or belongs to another artifact of it"
            )
        return record.artifact_sha256

    def add_alone_to(self, server: GrpcServer) -> None:
        """Add this servicer to a server that serves nothing else."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "DownloadArtifact": grpc.unary_stream_rpc_method_handler(
                self.DownloadArtifact,
                pb.DownloadArtifactRequest.FromString,
                pb.DownloadArtifactResponse.SerializeToString,
            ),
            "DownloadBlob": grpc.unary_stream_rpc_method_handler(
                self.DownloadBlob,
                pb.DownloadBlobRequest.FromString,
                pb.DownloadBlobResponse.SerializeToString,
            ),
        }
        handler = grpc.method_handlers_generic_handler(SERVICE, methods)
        server.grpc.add_generic_rpc_handlers((handler,))


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    # The read runs in a thread, because a stalled network volume must not block the event loop.
    while chunk := await in_thread(file.read, CHUNK_BYTES):
        yield chunk

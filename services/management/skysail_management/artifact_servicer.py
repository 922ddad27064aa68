"""The method that replicas call, `DownloadArtifact`, on a separate port or on the main one.

Replicas run the code of users and may reach management for this method only. On a separate port it
is the only registered handler, so that other requests are rejected unread.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from skysail_common.artifacts import CHUNK_BYTES
from skysail_common.errors import Unauthenticated
from skysail_common.identifiers import ReplicaId
from skysail_common.process.threads import in_thread
from skysail_common.rpc.grpc_server import GrpcServer
from skysail_common.rpc.management_access import token_of
from skysail_common.tokens import is_token_of
from skysail_management.artifacts import ArtifactStore
from skysail_management.operations.models import Models
from skysail_protos.v1 import management_pb2 as pb

_SERVICE = "skysail.v1.ManagementService"

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
        """Yield the SHA-256 of the artifact, then its content."""
        version = ReplicaId.parse(request.replica_id).model_version
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        token = token_of(metadata)
        record = self._models.find(version)
        if record is None or not is_token_of(token, self._secret, version, record.artifact_sha256):
            raise Unauthenticated(
                f"cannot serve the artifact: the token does not belong to a replica of {str(version)!r}, "
                "or belongs to another artifact of it"
            )
        file = await asyncio.to_thread(self._artifacts.open, record.artifact_sha256)
        with file:
            yield pb.DownloadArtifactResponse(sha256=record.artifact_sha256)
            # The read runs in a thread, because a stalled network volume must not block the event
            # loop.
            while chunk := await in_thread(file.read, CHUNK_BYTES):
                yield pb.DownloadArtifactResponse(chunk=chunk)

    def add_alone_to(self, server: GrpcServer) -> None:
        """Add this servicer to a server that serves nothing else."""
        method = grpc.unary_stream_rpc_method_handler(
            self.DownloadArtifact,
            pb.DownloadArtifactRequest.FromString,
            pb.DownloadArtifactResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(_SERVICE, {"DownloadArtifact": method})
        server.grpc.add_generic_rpc_handlers((handler,))

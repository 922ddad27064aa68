"""The part of management that serves artifacts to model servers."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

import skysail.artifact.build
from skysail_common.artifacts import CHUNK_BYTES
from skysail_common.errors import ModelNotFound, Unauthenticated
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.rpc.grpc_server import GrpcServer
from skysail_common.tokens import is_token_of
from skysail_protos.v1 import management_pb2 as pb
from skysail_protos.v1 import management_pb2_grpc

SECRET = "the secret of the tests"


class ArtifactServer(management_pb2_grpc.ManagementServiceServicer):
    """A server of `DownloadArtifact` alone."""

    def __init__(self) -> None:
        self._artifacts: dict[ModelVersion, skysail.artifact.build.Artifact] = {}
        self._server = GrpcServer(["skysail.v1.ManagementService"])
        self.port = 0

    async def start(self, host: str = "127.0.0.1") -> None:
        management_pb2_grpc.add_ManagementServiceServicer_to_server(self, self._server.grpc)
        self.port = self._server.bind(f"{host}:0")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def add(self, version: ModelVersion, artifact: skysail.artifact.build.Artifact) -> None:
        self._artifacts[version] = artifact

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        version = ReplicaId.parse(request.replica_id).model_version
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        kind, _, token = str(metadata.get("authorization", "")).partition(" ")
        artifact = self._artifacts.get(version)
        if artifact is None:
            raise ModelNotFound(f"model {str(version)!r} is not registered")
        if kind != "Bearer" or not is_token_of(token, SECRET, version, artifact.sha256):
            raise Unauthenticated(f"the token does not belong to a replica of {str(version)!r}")
        yield pb.DownloadArtifactResponse(sha256=artifact.sha256)
        for begin in range(0, len(artifact.content), CHUNK_BYTES):
            yield pb.DownloadArtifactResponse(chunk=artifact.content[begin : begin + CHUNK_BYTES])

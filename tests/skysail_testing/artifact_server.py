"""The part of management that serves artifacts to model servers."""

import asyncio
import hashlib
import platform
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

import skysail.artifact.build
from skysail_common.artifacts import CHUNK_BYTES, Blob, Manifest, SignatureRecord, to_json
from skysail_common.errors import ArtifactNotFound, ModelNotFound, Unauthenticated, Unavailable
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.rpc.grpc_server import GrpcServer
from skysail_common.tensors import DataType, Signature, TensorSpec
from skysail_common.tokens import is_token_of
from skysail_protos.v1 import management_pb2 as pb
from skysail_protos.v1 import management_pb2_grpc
from skysail_testing.artifacts import bytes_of

SECRET = "the secret of the tests"
BLOB_CHUNK_BYTES = 64 * 1024
_VALUES = TensorSpec("values", DataType.FP64, (-1,))
ANY_MANIFEST = Manifest(
    skysail_version="0",
    python_version=platform.python_version(),
    signature=SignatureRecord.of(Signature((_VALUES,), (_VALUES,))),
)
"""The manifest of an artifact that nobody loads."""


@dataclass(frozen=True)
class ServedArtifact:
    """An artifact as replicas fetch it."""

    content: bytes
    """The manifest, or the archive of format 1."""
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    """Contents by SHA-256."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def num_blob_bytes(self) -> int:
        return sum(map(len, self.blobs.values()))


def served_artifact(
    files: Mapping[str, bytes], manifest: Manifest = ANY_MANIFEST
) -> ServedArtifact:
    """Return an artifact of these files."""
    blobs = {hashlib.sha256(content).hexdigest(): content for content in files.values()}
    listed = tuple(
        Blob(path=path, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        for path, content in files.items()
    )
    values = manifest.model_copy(update={"blobs": listed}).model_dump(mode="json")
    return ServedArtifact(to_json(values).encode(), blobs)


def served(artifact: skysail.artifact.build.Artifact) -> ServedArtifact:
    """Return an artifact that the SDK built."""
    blobs = {blob.sha256: bytes_of(artifact.files[blob.path]) for blob in artifact.manifest.blobs}
    return ServedArtifact(artifact.manifest_bytes, blobs)


class ArtifactServer(management_pb2_grpc.ManagementServiceServicer):
    """A server of the methods that replicas call."""

    def __init__(self) -> None:
        self._artifacts: dict[ModelVersion, ServedArtifact] = {}
        self.num_blob_bytes = 0
        """Bytes of blobs sent so far."""
        self.max_call_bytes = 1 << 62
        """Bytes of a blob after which a call breaks."""
        self.gate = asyncio.Event()
        """Calls wait for it after their first chunk."""
        self.gate.set()
        self._server = GrpcServer(["skysail.v1.ManagementService"])
        self.port = 0

    async def start(self, host: str = "127.0.0.1") -> None:
        management_pb2_grpc.add_ManagementServiceServicer_to_server(self, self._server.grpc)
        self.port = self._server.bind(f"{host}:0")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def add(self, version: ModelVersion, artifact: skysail.artifact.build.Artifact) -> None:
        self.serve(version, served(artifact))

    def serve(self, version: ModelVersion, artifact: ServedArtifact) -> None:
        self._artifacts[version] = artifact

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        artifact = self._check(request.replica_id, context)
        yield pb.DownloadArtifactResponse(sha256=artifact.sha256)
        for begin in range(0, len(artifact.content), CHUNK_BYTES):
            yield pb.DownloadArtifactResponse(chunk=artifact.content[begin : begin + CHUNK_BYTES])

    async def DownloadBlob(
        self, request: pb.DownloadBlobRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[pb.DownloadBlobResponse]:
        blobs = self._check(request.replica_id, context).blobs
        if request.sha256 not in blobs:
            raise ArtifactNotFound(f"blob {request.sha256} is not part of the artifact")
        content = blobs[request.sha256]
        for begin in range(request.offset, len(content), BLOB_CHUNK_BYTES):
            if begin - request.offset >= self.max_call_bytes:
                raise Unavailable("the connection broke")
            chunk = content[begin : begin + BLOB_CHUNK_BYTES]
            self.num_blob_bytes += len(chunk)
            yield pb.DownloadBlobResponse(chunk=chunk)
            await self.gate.wait()

    def _check(
        self, replica_id: str, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> ServedArtifact:
        version = ReplicaId.parse(replica_id).model_version
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        kind, _, token = str(metadata.get("authorization", "")).partition(" ")
        artifact = self._artifacts.get(version)
        if artifact is None:
            raise ModelNotFound(f"model {str(version)!r} is not registered")
        if kind != "Bearer" or not is_token_of(token, SECRET, version, artifact.sha256):
            raise Unauthenticated(f"the token does not belong to a replica of {str(version)!r}")
        return artifact

"""The upload of an artifact: the blobs that management lacks, then the manifest that lists them.

FindArtifact ──► FindBlobs ──► UploadBlobs ──► UploadArtifact
                   ▲               │
                   └── it broke ───┘   the next attempt continues at the offset
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc.aio

from skysail.artifact.build import Artifact
from skysail.calls.management_channel import ManagementChannel
from skysail.calls.retries import RetryPolicy
from skysail.calls.upload_progress import UploadProgress
from skysail.packaging.base import BlobSource
from skysail.progress import OnEvent
from skysail_common.artifacts import BUFFERS_DIRECTORY, CHUNK_BYTES, Blob
from skysail_common.errors import ArtifactNotFound, Conflict, InvalidInput
from skysail_common.process.threads import in_thread
from skysail_protos.v1 import management_pb2 as pb

if TYPE_CHECKING:
    # The generated class exists in the stub file only.
    from skysail_protos.v1.management_pb2_grpc import ManagementServiceAsyncStub as Stub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

_TIMEOUT_S = 3600.0
_HASHED_BYTES_PER_S = 100e6
"""Speed at which management at least reads blobs that it has not compared since its start."""
_MAX_ATTEMPTS = 5
"""Most attempts after management lost blobs or bytes of them that it had before."""


class UploadCalls(ManagementChannel):
    """Uploads of artifacts."""

    async def _upload(
        self, artifact: Artifact, on_event: OnEvent | None, retries: RetryPolicy
    ) -> None:
        """Upload what management lacks of an artifact.

        Raises:
            InvalidInput: management refuses the artifact, or a file changed since the build.
            FailedPrecondition: the disk of management is full.
        """
        find = pb.FindArtifactRequest(sha256=artifact.sha256)
        limit_s = self._timeout_s + artifact.size_bytes / _HASHED_BYTES_PER_S
        found = await self._call(
            lambda stub: stub.FindArtifact(find, timeout=limit_s), retries=retries, limit_s=limit_s
        )
        if found.is_stored:
            return
        upload = _Upload(artifact, UploadProgress(on_event), retries)
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                await self._call(upload.run, retries=retries, limit_s=_TIMEOUT_S)
                break
            except (ArtifactNotFound, Conflict):
                # A sweep removed blobs, or another client continued the upload of one.
                if attempt == _MAX_ATTEMPTS:
                    raise
            except InvalidInput as error:
                raise upload.explained(error) from None


class _Upload:
    """One artifact on its way."""

    def __init__(self, artifact: Artifact, progress: UploadProgress, retries: RetryPolicy) -> None:
        self._artifact = artifact
        self._blobs = {blob.sha256: blob for blob in artifact.manifest.blobs}
        self._progress = progress
        self._retries = retries
        self._missing_bytes: int | None = None

    async def run(self, stub: "Stub") -> None:
        """Upload the missing blobs, then the manifest; a repeated call continues."""
        blobs = [_blob_id(blob) for blob in self._blobs.values()]
        found = await stub.FindBlobs(pb.FindBlobsRequest(blobs=blobs), timeout=_TIMEOUT_S)
        self._note(found.missing)
        if found.missing:
            await _stream(stub.UploadBlobs(timeout=_TIMEOUT_S), self._blob_requests(found.missing))
        await _stream(stub.UploadArtifact(timeout=_TIMEOUT_S), self._manifest_requests())

    def _note(self, missing: Iterable[pb.MissingBlob]) -> None:
        """Note the missing bytes, and renew the retries if fewer are missing than before."""
        num_bytes = sum(self._blobs[each.sha256].size_bytes - each.stored_bytes for each in missing)
        if self._missing_bytes is None or num_bytes < self._missing_bytes:
            self._retries.note_answer()
        self._missing_bytes = num_bytes
        self._progress.begin(num_bytes)

    async def _blob_requests(
        self, missing: Iterable[pb.MissingBlob]
    ) -> AsyncGenerator[pb.UploadBlobsRequest, None]:
        for each in missing:
            blob = self._blobs[each.sha256]
            header = pb.BlobHeader(blob=_blob_id(blob), offset=each.stored_bytes)
            yield pb.UploadBlobsRequest(header=header)
            position = each.stored_bytes
            async with aclosing(_chunks(self._artifact.files[blob.path], position)) as chunks:
                async for chunk in chunks:
                    yield pb.UploadBlobsRequest(chunk=chunk)
                    position += len(chunk)
                    self._progress.note(len(chunk))
            if position != blob.size_bytes:
                raise InvalidInput(
                    f"cannot upload {blob.path}: it has {position} bytes, and had {blob.size_bytes} "
                    "when the deploy began; deploy it again, and leave it unchanged meanwhile"
                )

    async def _manifest_requests(self) -> AsyncGenerator[pb.UploadArtifactRequest, None]:
        yield pb.UploadArtifactRequest(sha256=self._artifact.sha256)
        async for chunk in _chunks(self._artifact.manifest_bytes, 0):
            yield pb.UploadArtifactRequest(chunk=chunk)

    def explained(self, error: InvalidInput) -> InvalidInput:
        """Return an error of management with the path of the blob that it names."""
        for blob in self._blobs.values():
            if blob.sha256 not in error.message:
                continue
            if blob.path.startswith(BUFFERS_DIRECTORY):
                return InvalidInput(
                    f"cannot upload the model: an array of {blob.size_bytes} bytes changed during the "
                    "deploy; let the function change a copy of it, or create the array in "
                    "load(context), and leave the model unchanged during a deploy"
                )
            return InvalidInput(
                f"cannot upload {blob.path}: {error.message}; leave the model and its files "
                "unchanged during a deploy"
            )
        return error


def _blob_id(blob: Blob) -> pb.BlobId:
    return pb.BlobId(sha256=blob.sha256, size_bytes=blob.size_bytes)


async def _stream(
    call: "grpc.aio.StreamUnaryCall[RequestT, ResponseT]", requests: AsyncGenerator[RequestT, None]
) -> ResponseT:
    """Send requests and return the response; an error of a request ends the call."""
    try:
        async with aclosing(requests):
            async for request in requests:
                await call.write(request)
        await call.done_writing()
    except asyncio.InvalidStateError:
        # Management has ended the call; its status is the reason.
        pass
    except BaseException:
        call.cancel()
        raise
    return await call


async def _chunks(source: BlobSource, offset: int) -> AsyncGenerator[bytes, None]:
    """Yield the content of a blob from an offset on; a whole blob is never copied."""
    if not isinstance(source, Path):
        view = memoryview(source).cast("B")
        for begin in range(offset, view.nbytes, CHUNK_BYTES):
            yield bytes(view[begin : begin + CHUNK_BYTES])
        return
    with await in_thread(source.open, "rb") as file:
        file.seek(offset)
        while chunk := await in_thread(file.read, CHUNK_BYTES):
            yield chunk

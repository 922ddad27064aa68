"""Downloads from management, which continue after a break."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from skysail_common.artifacts import Blob
from skysail_common.clock import MONOTONIC
from skysail_common.errors import SkysailError, Unavailable
from skysail_common.process.backoff import BackOff
from skysail_common.process.threads import in_thread
from skysail_common.rpc.channels import open_channel
from skysail_common.rpc.statuses import stream
from skysail_model_server.node_cache import PartialBlob
from skysail_protos.v1 import management_pb2, management_pb2_grpc

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.1
_MAX_RETRY_S = 2.0

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class ArtifactAccess:
    """Access of one replica to management."""

    endpoint: str
    """Endpoint of management."""
    replica_id: str
    """Id of the replica."""
    token: str = field(repr=False)
    """Token of its version."""


class Patience:
    """The time without progress after which a download fails."""

    def __init__(self, timeout_s: float) -> None:
        """Start to wait."""
        self.timeout_s = timeout_s
        self._end = MONOTONIC() + timeout_s

    def renew(self) -> None:
        """Note progress."""
        self._end = MONOTONIC() + self.timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until the download fails without progress; at least 0."""
        return max(0.0, self._end - MONOTONIC())


class ManagementDownloads:
    """The downloads of one replica; a context that holds the connection."""

    def __init__(self, access: ArtifactAccess, patience: Patience) -> None:
        """Connect on the first call; every download renews the patience."""
        self._access = access
        self._patience = patience
        self._channel = open_channel(access.endpoint)
        self._stub = management_pb2_grpc.ManagementServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {access.token}"),)
        self.num_bytes = 0
        """Bytes received so far."""

    async def __aenter__(self) -> "ManagementDownloads":
        """Return the downloads."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self._channel.close()

    async def artifact(self, target: Path) -> str:
        """Write the manifest or archive of the version, and return the announced SHA-256.

        Raises:
            Unavailable: management sent nothing within the patience.
            SkysailError: management refused.
        """
        return await self._retry(lambda: self._receive_artifact(target))

    async def _receive_artifact(self, target: Path) -> str:
        announced = ""
        request = management_pb2.DownloadArtifactRequest(replica_id=self._access.replica_id)
        responses = stream(self._stub.DownloadArtifact(request, metadata=self._metadata))
        with target.open("wb") as file:
            async with aclosing(responses):
                while (response := await self._next(responses)) is not None:
                    if response.WhichOneof("part") == "sha256":
                        announced = response.sha256
                    else:
                        self.num_bytes += len(response.chunk)
                        await in_thread(file.write, response.chunk)
        return announced

    async def blob(self, blob: Blob, partial: PartialBlob) -> None:
        """Complete a partial blob; errors as for `artifact`."""
        while partial.size_bytes < blob.size_bytes:
            await self._retry(lambda: self._receive_blob(blob, partial))

    async def _receive_blob(self, blob: Blob, partial: PartialBlob) -> None:
        request = management_pb2.DownloadBlobRequest(
            replica_id=self._access.replica_id, sha256=blob.sha256, offset=partial.size_bytes
        )
        responses = stream(self._stub.DownloadBlob(request, metadata=self._metadata))
        before = partial.size_bytes
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.set_result(None)
        try:
            async with aclosing(responses):
                while (response := await self._next(responses)) is not None:
                    await written
                    self.num_bytes += len(response.chunk)
                    # A thread writes this chunk while the next one arrives.
                    written = asyncio.ensure_future(in_thread(partial.append, response.chunk))
            await written
        finally:
            await asyncio.gather(written, return_exceptions=True)
        if partial.size_bytes == before:
            raise SkysailError(
                f"cannot fetch {blob.path}: management ends after {before} of {blob.size_bytes} "
                "bytes; deploy the version again"
            )

    async def _next(self, responses: AsyncIterator[ResultT]) -> ResultT | None:
        """Return the next response, or None at the end."""
        try:
            response = await asyncio.wait_for(anext(responses), self._patience.left_s)
        except StopAsyncIteration:
            return None
        except asyncio.TimeoutError:
            raise Unavailable(f"it sent nothing for {self._patience.timeout_s:g} s") from None
        self._patience.renew()
        return response

    async def _retry(self, attempt: Callable[[], Awaitable[ResultT]]) -> ResultT:
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            try:
                return await attempt()
            except Unavailable as error:
                if self._patience.left_s <= _MAX_RETRY_S:
                    raise Unavailable(
                        f"cannot fetch the artifact: management at {self._access.endpoint} does not "
                        f"answer within {self._patience.timeout_s:g} s: {error.message}; check its "
                        "setting advertised-endpoint, and that replicas can reach it"
                    ) from error
                log.info("management unavailable; retrying", extra={"error": error.message})
                await asyncio.sleep(back_off.next_s())

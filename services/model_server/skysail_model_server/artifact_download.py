"""Download of the artifact from management, for processes, containers and pods."""

import asyncio
import hashlib
import logging
from pathlib import Path

from skysail_common.clock import MONOTONIC
from skysail_common.errors import SkysailError, Unavailable
from skysail_common.process.backoff import BackOff
from skysail_common.rpc.channels import open_channel
from skysail_common.rpc.statuses import stream
from skysail_protos.v1 import management_pb2, management_pb2_grpc

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.1
_MAX_RETRY_S = 2.0


async def download_artifact(
    endpoint: str,
    replica_id: str,
    token: str,
    target: Path,
    timeout_s: float,
    expected_sha256: str = "",
) -> None:
    """Write the artifact of this replica's version to `target`.

    The download retries while management is unavailable.

    Args:
        endpoint: Endpoint of management.
        replica_id: Id of this replica.
        token: Token of its version.
        target: File to write.
        timeout_s: Longest time, retries included.
        expected_sha256: SHA-256 of the artifact; any if empty.

    Raises:
        Unavailable: management did not answer in time.
        SkysailError: management refused, or the SHA-256 differs.
    """
    end = MONOTONIC() + timeout_s
    back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
    while True:
        try:
            digest = await _fetch_once(
                endpoint, replica_id, token, target, max(0.1, end - MONOTONIC())
            )
        except Unavailable as error:
            if MONOTONIC() + _MAX_RETRY_S >= end:
                raise Unavailable(
                    f"cannot fetch the artifact: management at {endpoint} does not answer within "
                    f"{timeout_s:g} s: {error.message}; check its setting advertised-endpoint, and "
                    "that replicas can reach it"
                ) from error
            log.info("management unavailable; retrying", extra={"error": error.message})
            await asyncio.sleep(back_off.next_s())
        else:
            if expected_sha256 not in ("", digest):
                raise SkysailError(
                    f"cannot use the artifact: its SHA-256 is {digest}, not {expected_sha256} as in "
                    "its deployment; deploy the version again"
                )
            return


async def _fetch_once(
    endpoint: str, replica_id: str, token: str, target: Path, timeout_s: float
) -> str:
    digest = hashlib.sha256()
    announced = ""
    async with open_channel(endpoint) as channel:
        stub = management_pb2_grpc.ManagementServiceStub(channel)
        responses = stub.DownloadArtifact(
            management_pb2.DownloadArtifactRequest(replica_id=replica_id),
            metadata=(("authorization", f"Bearer {token}"),),
            timeout=timeout_s,
        )
        with target.open("wb") as file:
            async for response in stream(responses):
                if response.WhichOneof("part") == "sha256":
                    announced = response.sha256
                else:
                    digest.update(response.chunk)
                    file.write(response.chunk)
    if digest.hexdigest() != announced:
        raise SkysailError(
            f"cannot use the artifact: it arrived with SHA-256 {digest.hexdigest()}, announced as "
            f"{announced}; check the disk of management"
        )
    return announced

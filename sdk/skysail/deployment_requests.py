"""What management is asked for about deployments, as messages."""

from collections.abc import AsyncIterator, Mapping

from skysail.artifact import Artifact
from skysail_common.artifacts import CHUNK_BYTES
from skysail_common.errors import InvalidInput
from skysail_common.rpc.messages import duration
from skysail_protos.v1 import management_pb2, routing_pb2


def deploy_request(
    *,
    name: str,
    version: str | int,
    num_replicas: int,
    promote: bool,
    labels: Mapping[str, str] | None,
    environment: Mapping[str, str] | None,
    num_threads: int,
    memory_mib: int,
    cpus: float,
    gpus: int,
    max_batch_size: int | None,
    start_timeout_s: float | None,
) -> management_pb2.DeployRequest:
    """Return the request that `AsyncClient.deploy` describes, without its artifact."""
    if min(num_replicas, num_threads, memory_mib, cpus, gpus) < 0:
        raise InvalidInput(
            "num_replicas, num_threads, memory_mib, cpus and gpus cannot be less than 0"
        )
    return management_pb2.DeployRequest(
        model=name,
        version=str(version),
        labels=labels,
        num_replicas=num_replicas,
        resources=management_pb2.Resources(
            num_threads=num_threads, memory_mib=memory_mib, cpus=cpus, gpus=gpus
        ),
        environment=environment,
        serving=routing_pb2.ServingOptions(max_batch_size=max_batch_size)
        if max_batch_size
        else None,
        start_timeout=None if start_timeout_s is None else duration(start_timeout_s),
        promote=promote,
    )


def scale_request(
    model: str, version: str | int | None, num_replicas: int
) -> management_pb2.ScaleRequest:
    """Return the request that `AsyncClient.scale` describes."""
    if num_replicas < 0:
        raise InvalidInput("num_replicas cannot be less than 0")
    return management_pb2.ScaleRequest(
        model=model, version="" if version is None else str(version), num_replicas=num_replicas
    )


def autoscaling_request(
    model: str, version: str | int | None, min_replicas: int, max_replicas: int
) -> management_pb2.SetAutoscalingRequest:
    """Return the request that `AsyncClient.autoscale` describes."""
    if min(min_replicas, max_replicas) < 0:
        raise InvalidInput("min_replicas and max_replicas cannot be less than 0")
    return management_pb2.SetAutoscalingRequest(
        model=model,
        version="" if version is None else str(version),
        autoscaling=management_pb2.Autoscaling(
            min_replicas=min_replicas, max_replicas=max_replicas
        ),
    )


async def upload_requests(
    artifact: Artifact,
) -> AsyncIterator[management_pb2.UploadArtifactRequest]:
    """Yield the messages by which an artifact is uploaded."""
    yield management_pb2.UploadArtifactRequest(sha256=artifact.sha256)
    for begin in range(0, len(artifact.content), CHUNK_BYTES):
        chunk = artifact.content[begin : begin + CHUNK_BYTES]
        yield management_pb2.UploadArtifactRequest(chunk=chunk)

"""The network side of a model server, independent of the transport."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from time import perf_counter_ns

from google.protobuf.message import DecodeError

from skysail_common.errors import InvalidInput, Unavailable
from skysail_common.identifiers import ReplicaId
from skysail_common.rpc.contract import Server
from skysail_common.rpc.link_identity import check_identity
from skysail_common.rpc.messages import description_to_proto, latencies_to_proto
from skysail_model_server.execution import Execution
from skysail_model_server.model import Model
from skysail_protos.v1 import model_server_pb2 as pb

SERVICE = "skysail.v1.ModelServer"
PREDICT_BATCHES = f"/{SERVICE}/PredictBatches"
DESCRIBE_LOADED_MODEL = f"/{SERVICE}/DescribeLoadedModel"

_MAX_US = 2**32 - 1


class BatchServer(ABC):
    """A server of batches for frontends; `run` belongs to the main thread, the rest to I/O."""

    def __init__(self, replica_id: ReplicaId, server: Server) -> None:
        """Prepare the server; `start` opens its address.

        Args:
            replica_id: Id of this replica.
            server: Server of the transport.
        """
        self._replica_id = replica_id
        self._server = server
        self._model: Model | None = None
        self._is_draining = False

    async def start(self, address: str) -> None:
        """Listen; until `begin`, health is NOT_SERVING and batches are refused.

        Raises:
            FailedPrecondition: the address is in use or cannot be bound.
        """
        self._server.bind(address)
        await self._server.start()

    async def begin(self, model: Model) -> None:
        """Accept batches for the model, and set health to SERVING."""
        self._model = model
        await self._server.set_serving(True)

    @abstractmethod
    def run(self, execution: Execution) -> None:
        """Answer batches until the drain ends; the main thread calls it after `begin`."""

    @abstractmethod
    async def drain(self) -> None:
        """Refuse new batches, answer the accepted ones, and close all connections."""

    def _model_for(self, metadata: Mapping[str, str | bytes]) -> Model:
        """Return the model for the batches of a stream with this metadata.

        Raises:
            FailedPrecondition: the stream is for another version or other content.
            Unavailable: the replica does not accept batches.
        """
        if self._model is None or self._is_draining:
            raise Unavailable(f"replica {self._replica_id} is not ready")
        check_identity(metadata, self._replica_id.model_version, self._model.artifact_sha256)
        return self._model

    def _describe(self, metadata: Mapping[str, str | bytes]) -> bytes:
        """Return the description of the model for a caller with this metadata.

        Raises:
            SkysailError: as for `_model_for`.
        """
        description = self._model_for(metadata).description
        return description_to_proto(description).SerializeToString()


def parse_batch(message: bytes) -> pb.Batch:
    """Return the batch of a message.

    Raises:
        InvalidInput: the message is not a batch.
    """
    try:
        return pb.Batch.FromString(message)
    except DecodeError as error:
        raise InvalidInput("Unable to parse request: it is not a Batch") from error


def answer(execution: Execution, batch: pb.Batch, arrived_ns: int) -> pb.BatchResult:
    """Return the result of a batch that arrived at an instant of `perf_counter_ns`."""
    result = execution.run(batch)
    waited_ns = perf_counter_ns() - arrived_ns - result.compute_us * 1000
    result.wait_us = max(0, min(waited_ns // 1000, _MAX_US))
    return result


def introduction(model: Model) -> bytes:
    """Return the first message of a stream: the latencies that the warm-up measured."""
    return pb.BatchResult(latencies=latencies_to_proto(model.latencies)).SerializeToString()


def with_backlog(result: pb.BatchResult, backlog_us: int) -> bytes:
    """Return a result with the expected time of all queued batches, those of other frontends too."""
    result.backlog_us = min(backlog_us, _MAX_US)
    return result.SerializeToString()

"""What a model server is to the network, whichever transport carries it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from time import perf_counter_ns

from google.protobuf.message import DecodeError

from skysail_common.errors import InvalidInput, Unavailable
from skysail_common.identifiers import ReplicaId
from skysail_common.rpc.contract import Server
from skysail_common.rpc.link_identity import check_identity
from skysail_common.rpc.messages import latencies_to_proto
from skysail_model_server.execution import Execution
from skysail_model_server.model import Model
from skysail_protos.v1 import model_server_pb2 as pb

SERVICE = "skysail.v1.ModelServer"
PREDICT_BATCHES = f"/{SERVICE}/PredictBatches"

_MAX_US = 2**32 - 1


class BatchServer(ABC):
    """Serves frontends from its start to its drain; methods are of the I/O thread but for `run`."""

    def __init__(self, replica_id: ReplicaId, server: Server) -> None:
        """Listens nowhere yet.

        Args:
            replica_id: Who this is.
            server: What listens.
        """
        self._replica_id = replica_id
        self._server = server
        self._model: Model | None = None
        self._is_draining = False

    async def start(self, address: str) -> None:
        """Listen; health says NOT_SERVING and batches are not answered before `begin`.

        Raises:
            FailedPrecondition: the address is in use or cannot be bound.
        """
        self._server.bind(address)
        await self._server.start()

    async def begin(self, model: Model) -> None:
        """Take batches for the model, and say so by health."""
        self._model = model
        await self._server.set_serving(True)

    @abstractmethod
    def run(self, execution: Execution) -> None:
        """Answer batches until all is drained; called on the main thread, after `begin`."""

    @abstractmethod
    async def drain(self) -> None:
        """Take no batch any more, and return when what was taken is answered and all is closed."""

    def _model_for(self, metadata: Mapping[str, str | bytes]) -> Model:
        """Return the model if the batches of a stream with this metadata are taken.

        Raises:
            FailedPrecondition: they are meant for another version or other content.
            Unavailable: none are taken.
        """
        if self._model is None or self._is_draining:
            raise Unavailable(f"replica {self._replica_id} is not ready")
        check_identity(metadata, self._replica_id.model_version, self._model.artifact_sha256)
        return self._model


def parse_batch(message: bytes) -> pb.Batch:
    """Return the batch that a message is.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return pb.Batch.FromString(message)
    except DecodeError as error:
        raise InvalidInput("Unable to parse request: it is not a Batch") from error


def answer(execution: Execution, batch: pb.Batch, arrived_ns: int) -> pb.BatchResult:
    """Return the result of a batch that came in at an instant of `perf_counter_ns`."""
    result = execution.run(batch)
    waited_ns = perf_counter_ns() - arrived_ns - result.compute_us * 1000
    result.wait_us = max(0, min(waited_ns // 1000, _MAX_US))
    return result


def introduction(model: Model) -> bytes:
    """Return the first message of a stream: what the warm-up has learned."""
    return pb.BatchResult(latencies=latencies_to_proto(model.latencies)).SerializeToString()


def with_backlog(result: pb.BatchResult, backlog_us: int) -> bytes:
    """Return a result with what the frontend should know of the others' batches."""
    result.backlog_us = min(backlog_us, _MAX_US)
    return result.SerializeToString()

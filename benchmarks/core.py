"""`python -m benchmarks.core`: the cost of a query in the frontend without a transport.

Requests, batches, results and answers are bytes, as with gRPC. The stages are timed one after the
other over many batches.
"""

import gc
from collections.abc import Callable, Mapping
from time import process_time

from benchmarks import models
from skysail_common.clock import MONOTONIC, NEVER
from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.contract import Link, LinkObserver, Metadata
from skysail_common.tensors import DataType, Signature, TensorSpec
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.routes import ReplicaEndpoint, RouteTable, ServedVersion
from skysail_frontend.ingress.grpc_inference import GrpcInference
from skysail_frontend.ingress.stream_session import Streams
from skysail_frontend.upstream.replica_link import ReplicaLink
from skysail_protos.v1 import model_server_pb2 as pb

BATCH_SIZES = (1, 8, 32)
NUM_QUERIES = 32_000
_WARM_UP = 200
_PATH = "/inference.GRPCInferenceService/ModelInfer"


class _Turns:
    """An event loop whose turns the benchmark runs."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> "_Turns":
        return self

    def cancel(self) -> None:
        pass

    def run(self) -> None:
        while self._soon:
            soon, self._soon = self._soon, []
            for callback in soon:
                callback()


class _Call:
    method = _PATH
    deadline = NEVER

    def __init__(self, message: bytes, answers: list[bytes]) -> None:
        self.message = message
        self.arrival = MONOTONIC()
        self._answers = answers

    def metadata(self) -> Mapping[str, str | bytes]:
        return {}

    def reply(self, message: bytes, trailers: Metadata = ()) -> None:
        self._answers.append(message)

    def fail(self, error: SkysailError, trailers: Metadata = ()) -> None:
        raise error

    def on_cancel(self, callback: Callable[[], None]) -> None:
        pass


class _Link:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def close(self) -> None:
        pass


async def _unreachable(
    endpoint: str, path: str, observer: LinkObserver, metadata: Metadata = ()
) -> Link:
    raise NotImplementedError


def _result_of(batch: bytes) -> bytes:
    """Return the result of a model server that echoes the inputs of a batch."""
    asked = pb.Batch.FromString(batch)
    result = pb.BatchResult(id=asked.id, outputs=asked.inputs, compute_us=100, wait_us=10)
    return result.SerializeToString()


def measure(batch_size: int) -> dict[str, float]:
    """Return the processor time per query in µs, by stage."""
    loop = _Turns()
    dispatcher = Dispatcher(MONOTONIC, loop, 10_000, 60.0)
    row = TensorSpec("x", DataType.FP32, (-1, 64))
    output = TensorSpec("output", DataType.FP32, (-1, 64))
    name = ModelVersion("noop", "1")
    served = ServedVersion(name, Signature((row,), (output,)), is_current=True, num_replicas=1)
    dispatcher.apply(RouteTable((), [served]))
    version = dispatcher.version(name)
    assert version is not None
    replica = ReplicaLink(ReplicaEndpoint("c", "unix:/c"), version, dispatcher, _unreachable)
    link = _Link()
    replica._link, replica.is_ready = link, True
    version.replicas.append(replica)
    door = GrpcInference(dispatcher, "bench", lambda: True, Streams(dispatcher, 1))
    handler = door.unary[_PATH]
    requests = models.infer_requests("noop")
    answers: list[bytes] = []
    stages = {"request to queue": 0.0, "queue to batch": 0.0, "result to answers": 0.0}
    gc.disable()
    num_batches = NUM_QUERIES // batch_size
    for number in range(num_batches + _WARM_UP):
        if number == _WARM_UP:
            stages = dict.fromkeys(stages, 0.0)
        calls = [_Call(requests[(number + each) % 360], answers) for each in range(batch_size)]
        begin = process_time()
        for call in calls:
            handler(call)
        queued = process_time()
        loop.run()
        sent = process_time()
        results = [_result_of(batch) for batch in link.sent]
        link.sent.clear()
        received = process_time()
        for result in results:
            replica.link_received(result)
        loop.run()
        end = process_time()
        assert len(answers) == batch_size
        answers.clear()
        stages["request to queue"] += queued - begin
        stages["queue to batch"] += sent - queued
        stages["result to answers"] += end - received
    gc.enable()
    return {stage: 1e6 * seconds / (num_batches * batch_size) for stage, seconds in stages.items()}


def main() -> None:
    """Print a line for each batch size."""
    for batch_size in BATCH_SIZES:
        stages = measure(batch_size)
        parts = ", ".join(f"{stage} {each_us:.1f}" for stage, each_us in stages.items())
        print(f"batches of {batch_size}: {sum(stages.values()):.1f} µs per query: {parts}")


if __name__ == "__main__":
    main()

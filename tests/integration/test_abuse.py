"""Abuse of the query ports: no request stalls a frontend for long or leaks memory."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from benchmarks.attack import models
from benchmarks.attack.cluster import Endpoints
from benchmarks.attack.sending import Sender, packed
from benchmarks.attack.structure import KIB, MAX_BYTES, MIB, Structure
from benchmarks.attack.structures import STRUCTURES
from benchmarks.attack.watching import PROBE_EVERY_S, Probe, Watched
from skysail_testing.clusters import RunningCluster, running_cluster

SMALL_S = 0.02
"""Processor time limit of the smallest request."""
MAX_S_PER_MIB = 0.015
"""Additional processor time for each MiB, which is read, decompressed and parsed once."""
MAX_STALL_S = 0.05
MAX_PEAK = 5
"""Limit of the temporary memory of a request, in multiples of its size."""

NUM_BEFORE = 200
"""Refusals before the measurement, which fill the caches of the allocator."""
NUM_REFUSED = 1000
NUM_CALLERS = 4
REFUSED_BYTES = 16 * KIB
MAX_LEFT_BYTES = 4 * MIB
"""A quarter of the sent bytes, because the allocator works in large pieces."""

ROWS = "rows"
"""A structure whose elements are queries, each with the cost of one."""
ANSWERED = {"200", "OK"}
ENCODINGS = ["identity", "gzip"]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path_factory.mktemp("a")) as cluster:
        with cluster.client() as client:
            models.deploy(client)
        yield cluster


@pytest.fixture(scope="module")
def frontend(attacked: RunningCluster) -> Watched:
    return Watched(attacked.service_pid("skysail_frontend"))


@pytest.fixture
def sender(attacked: RunningCluster) -> Iterator[Sender]:
    with Sender(endpoints_of(attacked)) as sender:
        yield sender


def endpoints_of(cluster: RunningCluster) -> Endpoints:
    return Endpoints(cluster.grpc, cluster.http, cluster.metrics)


class Stalls:
    """A measurement of the stalls of an event loop, by a thread."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    @contextmanager
    def longest(self) -> Iterator[list[float]]:
        """Measure inside the block; yield a list with the longest stall."""
        found = [0.0]
        done = threading.Event()

        def run() -> None:
            while not done.wait(PROBE_EVERY_S):
                # The frontend may have closed the idle connection.
                with suppress(ConnectionError):
                    found[0] = max(found[0], self._probe.stall_s()[0])

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield found
        finally:
            done.set()
            thread.join()


@pytest.fixture(scope="module")
def stalls(attacked: RunningCluster, frontend: Watched) -> Iterator[Stalls]:
    probe = Probe(attacked.http, frontend.pid)
    yield Stalls(probe)
    probe.close()


def send(sender: Sender, structure: Structure, body: bytes, encoding: str) -> str:
    """Send a body, which is compressed already for HTTP."""
    if structure.is_http:
        return sender.post(structure.door, body, encoding)
    return sender.call(structure.door, body, is_compressed=encoding != "identity")


def compressed_body(structure: Structure, size: int, encoding: str) -> bytes:
    body = structure.make(size)
    return packed(body, encoding) if structure.is_http else body


def check_bounds(
    sender: Sender, frontend: Watched, structure: Structure, size: int, encoding: str
) -> float:
    """Send a structure, check time and memory of the frontend, and return the time."""
    body = compressed_body(structure, size, encoding)
    held = frontend.rss_bytes()
    frontend.forget_peak()
    before = frontend.cpu_s()
    outcome = send(sender, structure, body, encoding)
    taken_s = frontend.cpu_s() - before
    peak = frontend.peak_bytes() - held
    print(
        f"{size >> 10} KiB: {outcome}, {1e3 * taken_s:.1f} ms of processor time, peak "
        f"{peak / MIB:+.0f} MiB"
    )
    assert outcome in structure.answers
    assert taken_s < SMALL_S + MAX_S_PER_MIB * size / MIB
    assert peak < MAX_LEFT_BYTES + MAX_PEAK * size
    return taken_s


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "structure", [each for each in STRUCTURES if not each.name.endswith(ROWS)], ids=str
)
def test_time_and_memory_are_bounded_by_the_size(
    sender: Sender, frontend: Watched, structure: Structure, encoding: str
):
    for size in (KIB, MIB, 8 * MIB):
        check_bounds(sender, frontend, structure, size, encoding)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "structure", [each for each in STRUCTURES if not each.name.endswith(ROWS)], ids=str
)
def test_the_largest_message_does_not_stall_the_event_loop(
    sender: Sender, frontend: Watched, stalls: Stalls, structure: Structure, encoding: str
):
    with stalls.longest() as found:
        taken_s = check_bounds(sender, frontend, structure, MAX_BYTES, encoding)
    # Time beyond the frontend's own processor time was taken by other processes.
    stall_s = min(found[0], taken_s)
    print(f"stall {1e3 * stall_s:.0f} ms")
    assert stall_s < MAX_STALL_S


def refuse_many(cluster: RunningCluster, structure: Structure, encoding: str, number: int) -> None:
    """Send a structure many times from several threads."""
    body = compressed_body(structure, REFUSED_BYTES, encoding)

    def send_share() -> None:
        with Sender(endpoints_of(cluster)) as sender:
            for _ in range(number // NUM_CALLERS):
                assert send(sender, structure, body, encoding) in structure.answers

    with ThreadPoolExecutor(NUM_CALLERS) as pool:
        for future in [pool.submit(send_share) for _ in range(NUM_CALLERS)]:
            future.result()


@pytest.mark.parametrize(("structure", "encoding"), [
    (structure, ENCODINGS[index % len(ENCODINGS)])
    for index, structure in enumerate(STRUCTURES)
    if structure.answers.isdisjoint(ANSWERED) and structure.name != ROWS
], ids=str)  # fmt: skip
def test_a_thousand_refusals_leave_no_memory(
    attacked: RunningCluster, frontend: Watched, structure: Structure, encoding: str
):
    refuse_many(attacked, structure, encoding, NUM_BEFORE)
    before = frontend.rss_bytes()
    refuse_many(attacked, structure, encoding, NUM_REFUSED)
    left = frontend.rss_bytes() - before
    print(f"{left / MIB:.2f} MiB are left")
    assert left < MAX_LEFT_BYTES

"""Replicas of one machine share the memory of weights, and a write of one stays its own."""

import asyncio
from pathlib import Path

import numpy as np

from skysail.artifact.build import build_artifact
from skysail_testing.model_servers import ModelServer, Results, batch_of, running_model_server

MIB = 1024**2
WEIGHTS_BYTES = 64 * MIB


class Weighted:
    def __init__(self):
        self.weights = np.full(WEIGHTS_BYTES // 8, 2.0)

    def predict(self, x):
        if x[0] < 0:
            self.weights[0] = 7.0
        return x * self.weights.mean() + self.weights[0]


def weights_of(pid: int) -> dict[str, int]:
    """Return the resident, proportional and private bytes of the mapping of the weights."""
    found: dict[str, int] = {}
    is_weights = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if not line[0].isupper():
            is_weights = "buffers/0.bin" in line
        elif is_weights and value.endswith("kB"):
            found[name] = found.get(name, 0) + int(value.split()[0]) * 1024
    return found


async def answer(server: ModelServer, value: float) -> float:
    results = Results()
    link = await server.connect(results)
    link.send(batch_of(1, value))
    result = await results.next()
    link.close()
    return float(np.frombuffer(result.outputs[0])[0])


async def test_a_second_replica_needs_no_memory_for_the_weights(tmp_path: Path):
    artifact = build_artifact(Weighted(), example=np.ones((1, 1)))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    shared = {"ARTIFACT_DIR": str(tmp_path / "a" / "artifact")}
    async with (
        running_model_server(artifact, "grpc", tmp_path / "a") as first,
        running_model_server(artifact, "grpc", tmp_path / "b", **shared) as second,
    ):
        pids = [each.service.process.pid for each in (first, second)]
        # Each replica reads all weights.
        assert [await answer(each, 1.0) for each in (first, second)] == [4.0, 4.0]
        found = [weights_of(pid) for pid in pids]
        assert [each["Rss"] for each in found] == [WEIGHTS_BYTES] * 2
        assert sum(each["Pss"] for each in found) <= WEIGHTS_BYTES + MIB
        assert sum(each["Private_Dirty"] for each in found) == 0
        await answer(first, -1.0)
        assert weights_of(pids[0])["Private_Dirty"] <= MIB
        assert await answer(second, 1.0) == 4.0
        assert await asyncio.to_thread(first.service.stop) == 0
        assert await asyncio.to_thread(second.service.stop) == 0

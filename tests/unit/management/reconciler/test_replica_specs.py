from pathlib import Path

import pytest

from skysail_common.identifiers import ReplicaId
from skysail_common.resources import Resources
from skysail_common.rpc.messages import latencies_to_proto
from skysail_common.tokens import is_token_of
from skysail_management.containers.base import WarmUp
from skysail_management.profiles import Profiles
from skysail_protos.v1 import routing_pb2
from skysail_testing.management_parts import running_parts
from skysail_testing.virtual_time import settle, virtual_time
from unit.management.reconciler.rollouts import M1


@virtual_time
async def test_replica_spec_has_all_values(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed(
            "m:1",
            num_replicas=1,
            num_threads=3,
            memory_mib=512,
            cpus=1.5,
            gpus=2,
            environment={"A": "b"},
        )
        (spec,) = parts.manager.started
        assert spec.replica_id == ReplicaId(M1, 0)
        assert spec.management_endpoint == "127.0.0.1:1"
        assert is_token_of(spec.token, "secret", M1, spec.version.artifact_sha256)
        assert spec.resources == Resources(num_threads=3, memory_mib=512, cpus=1.5, gpus=2)
        assert spec.environment == {"A": "b"}
        assert "token" not in repr(spec)


@virtual_time
async def test_without_threads_replicas_share_the_cores(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=3)
        await parts.deployed("m:2", num_replicas=9)
        assert [spec.resources.num_threads for spec in parts.manager.started] == [2] * 3 + [1] * 9


@virtual_time
async def test_replica_with_known_latencies_is_not_measured_again(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", serving={"max_batch_size": 8}, warm_up=False)
        assert parts.manager.started[-1].warm_up == WarmUp(
            is_on=False, budget_s=0.5, max_rows=8, is_measured=False
        )
        points = latencies_to_proto([(1, 0.01)])
        report = routing_pb2.LatencyReport(model="m", version="1", points=points)
        await Profiles(parts.records).take([report])
        await parts.deployments.scale("m", "1", 2)
        await settle()
        assert len(parts.manager.started) == 2
        assert parts.manager.started[-1].warm_up.is_measured
        events = await parts.deploy(
            "m:1", parts.records.versions.get("m:1").artifact_sha256, warm_up=True, num_replicas=3
        )
        assert "warm_up=True holds for replicas that start from now on" in [
            each.message for each in events
        ]
        assert parts.manager.started[-1].warm_up.is_on


@pytest.mark.parametrize(("cpus", "num_threads"), [(0.25, 1), (1.0, 1), (2.5, 3)])
@virtual_time
async def test_a_replica_has_as_many_threads_as_cpus(tmp_path: Path, cpus, num_threads):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", cpus=cpus)
        assert [spec.resources.num_threads for spec in parts.manager.started] == [num_threads]


@virtual_time
async def test_manager_sets_the_default_threads(tmp_path: Path, monkeypatch):
    async with running_parts(tmp_path) as parts:
        monkeypatch.setattr(parts.manager, "default_threads", lambda num_replicas: 7 * num_replicas)
        await parts.deployed("m:1", num_replicas=2)
        assert [spec.resources.num_threads for spec in parts.manager.started] == [14, 14]

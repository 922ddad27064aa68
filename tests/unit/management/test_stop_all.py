import asyncio

import pytest

from skysail_common.errors import ContainerManagerUnavailable
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.resources import Resources
from skysail_common.states import ReplicaState
from skysail_management.containers.base import ReplicaSpec, VersionSpec
from skysail_management.reconciler.reconciler import stop_all
from skysail_testing.fake_containers import FakeContainerManager
from skysail_testing.virtual_time import virtual_time

M1 = ModelVersion("m", "1")


@virtual_time
async def test_other_containers_stop_although_one_fails():
    manager = FakeContainerManager()
    version = VersionSpec(M1, "0" * 64, "3.11.0", ())
    for index in range(3):
        await manager.start(
            ReplicaSpec(ReplicaId(M1, index), version, "m:1", "token", Resources(num_threads=1))
        )
    manager.drain_gate = asyncio.Event()
    asyncio.get_running_loop().call_later(1.0, manager.drain_gate.set)
    manager.stop_errors = [ContainerManagerUnavailable("no answer")]
    with pytest.raises(ContainerManagerUnavailable, match="no answer"):
        await stop_all(manager, 1.0)
    assert len(manager.ids(ReplicaState.READY)) == 1
    assert manager.ids(ReplicaState.DRAINING) == []
    assert len(manager.stopped) == 2

"""The containers that the Docker manager observes."""

import asyncio
from pathlib import Path

from skysail_common.identifiers import ReplicaId
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_management.containers.docker.containers import FoundContainer
from skysail_management.containers.docker.manager import DockerEngineManager
from skysail_management.settings import ManagementSettings


class OneContainer:
    """An engine with one running container, which takes a moment to say so."""

    def __init__(self) -> None:
        self.container = Container("c1", ReplicaId.parse("m:1/0"), ReplicaState.STARTING)

    async def list(self) -> list[FoundContainer]:
        return [FoundContainer(self.container, is_running=True)]

    async def is_running(self, name: str) -> bool:
        await asyncio.sleep(0)
        return True


async def test_concurrent_resyncs_adopt_a_container_once(tmp_path: Path, monkeypatch):
    manager = DockerEngineManager(ManagementSettings(data_dir=tmp_path))
    monkeypatch.setattr(manager, "_containers", OneContainer())
    followed = []
    monkeypatch.setattr(manager, "_follow", followed.append)
    await asyncio.gather(manager.list(), manager.list())
    assert [replica.container.container_id for replica in followed] == ["c1"]

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from skysail_common.errors import (
    ContainerManagerUnavailable,
    ReplicaNotFound,
    SkysailError,
    Unsupported,
)
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import ClusterRefused
from skysail_common.kubernetes.kinds import DEPLOYMENT, POD
from skysail_common.resources import Resources
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_management.containers.kubernetes.manager import KubernetesManager, _with_reason
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_pods import (
    conditions,
    container,
    ended,
    pod_json,
    replica_spec,
    settings,
    version_spec,
)
from skysail_testing.virtual_time import now, pass_time, settle, virtual_time

READY = {key: pod_json()["status"][key] for key in ("phase", "conditions", "podIP")}
CRASHED = {
    **READY,
    "conditions": conditions(False),
    "containerStatuses": [container("model-server", running={}, last=ended(1))],
}


class Parts:
    def __init__(self, api: FakeKubernetesApi, **values: Any) -> None:
        self.api = api
        self.manager = KubernetesManager(settings(**values), cast(KubernetesApi, api))
        self.seen: list[Container] = []

    async def watch(self) -> None:
        async for each in self.manager.watch():
            self.seen.append(each)

    async def start(self, index: int = 0) -> str:
        started = await self.manager.start(replica_spec(index=index))
        assert started.state is ReplicaState.STARTING
        assert str(started.replica_id) == f"m:1/{index}"
        return started.container_id

    def tell(self, name: str, status: Any) -> None:
        """Change a pod in Kubernetes."""
        self.api.change(POD, name, status=status)

    async def ready(self, index: int = 0) -> str:
        name = await self.start(index)
        self.tell(name, READY)
        await settle()
        return name

    def states(self, name: str) -> list[ReplicaState]:
        return [each.state for each in self.seen if each.container_id == name]

    async def log(self, name: str, tail_lines: int = 10) -> list[str]:
        return [line async for line in self.manager.logs(name, tail_lines, False)]


@asynccontextmanager
async def running(api: FakeKubernetesApi | None = None, **values: Any) -> AsyncIterator[Parts]:
    parts = Parts(api or FakeKubernetesApi(), **values)
    await parts.manager.open()
    watching = asyncio.create_task(parts.watch())
    try:
        yield parts
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        await parts.manager.close()
        assert not parts.api.is_open


@virtual_time
async def test_starting_replica_becomes_ready_once():
    async with running() as parts:
        name = await parts.ready()
        parts.tell(name, {**READY, "startTime": "2026-11-20T10:00:01Z"})
        await settle()
        assert parts.states(name) == [ReplicaState.READY]
        assert parts.seen[0].endpoint == "10.42.0.7:8005"
        (listed,) = await parts.manager.list()
        assert listed == parts.seen[0]


@virtual_time
async def test_unready_replica_is_starting_again():
    async with running() as parts:
        name = await parts.ready()
        parts.tell(name, {**READY, "conditions": conditions(False)})
        await settle()
        assert parts.states(name) == [ReplicaState.READY, ReplicaState.STARTING]


@virtual_time
async def test_failed_replica_is_reported_once_with_its_log_and_removed():
    async with running() as parts:
        name = await parts.ready()
        lines = [b"loading", b"no such file: \xff"]
        parts.api.log_lines[name, "model-server", True] = lines
        parts.api.ends_pods = False
        parts.tell(name, CRASHED)
        await settle()
        parts.tell(name, {**CRASHED, "startTime": "2026-11-20T10:00:01Z"})
        await settle()
        assert parts.states(name) == [ReplicaState.READY, ReplicaState.FAILED]
        assert parts.seen[-1].reason == "exited with status 1"
        assert parts.seen[-1].log_tail == "loading\nno such file: \N{REPLACEMENT CHARACTER}"
        assert await parts.manager.list() == []
        assert (
            parts.api.objects[DEPLOYMENT, parts.api.names(DEPLOYMENT)[0]]["spec"]["replicas"] == 0
        )
        assert parts.api.called("delete", POD) == [name]
        parts.api.end(name)
        await settle()
        assert parts.states(name) == [ReplicaState.READY, ReplicaState.FAILED]
        # Kubernetes deletes the log with the pod.
        assert await parts.log(name) == ["loading", "no such file: \N{REPLACEMENT CHARACTER}"]
        assert await parts.log(name, 1) == ["no such file: \N{REPLACEMENT CHARACTER}"]


@virtual_time
async def test_new_replica_replaces_a_failed_one():
    async with running() as parts:
        first = await parts.ready()
        parts.tell(first, CRASHED)
        await settle()
        second = await parts.ready()
        assert parts.api.names(POD) == [second]
        assert parts.states(second) == [ReplicaState.READY]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ClusterRefused("previous terminated container not found"), ""),
        (ContainerManagerUnavailable("no answer"), "cannot read the log: no answer"),
        (asyncio.TimeoutError(), "cannot read the log: no answer"),
    ],
)
@virtual_time
async def test_failure_is_reported_without_a_readable_log(error: Exception, told: str):
    async with running() as parts:
        name = await parts.ready()
        parts.api.log_errors = [error]
        parts.tell(name, CRASHED)
        await settle()
        assert parts.seen[-1].state is ReplicaState.FAILED
        assert parts.seen[-1].log_tail == told


@virtual_time
async def test_failure_of_a_vanished_pod_counts_once():
    async with running() as parts:
        name = await parts.ready()
        parts.tell(name, CRASHED)
        parts.api.remove(POD, name)
        await settle()
        assert parts.states(name) == [ReplicaState.READY, ReplicaState.FAILED]


@virtual_time
async def test_leftover_pod_of_a_failed_replica_is_swept():
    async with running() as parts:
        name = await parts.ready()
        parts.api.errors["delete", "Pod"] = [ContainerManagerUnavailable("later")]
        parts.tell(name, CRASHED)
        await settle()
        assert parts.seen[-1].state is ReplicaState.FAILED
        assert parts.api.names(POD) == [name]
        await parts.manager.sweep(lambda: [version_spec()])
        await settle()
        assert parts.api.names(POD) == []
        assert await parts.log(name) == []
        # The log of a removed version is dropped.
        await parts.manager.sweep(lambda: [])
        with pytest.raises(ReplicaNotFound, match="no log of container"):
            await parts.log(name)


@virtual_time
async def test_sweep_ignores_serving_pods():
    async with running() as parts:
        name = await parts.ready()
        await parts.manager.sweep(lambda: [])
        assert parts.api.names(POD) == [name]
        assert parts.states(name) == [ReplicaState.READY]


@virtual_time
async def test_stopped_replica_drains_and_ends():
    async with running() as parts:
        name, other = await parts.ready(0), await parts.ready(1)
        parts.api.ends_pods = False
        stop = asyncio.create_task(parts.manager.stop(name, 7.5))
        await settle()
        assert not stop.done()
        assert parts.states(name) == [ReplicaState.READY, ReplicaState.DRAINING]
        # Ended in order, as it was told to, but not yet gone.
        done = container("model-server", terminated=ended(0, "Completed"))
        parts.tell(name, {**READY, "containerStatuses": [done]})
        await settle()
        assert parts.states(name) == [ReplicaState.READY, ReplicaState.DRAINING]
        parts.api.end(name)
        await stop
        await settle()
        assert parts.states(name)[-1] is ReplicaState.STOPPED
        assert parts.api.names(POD) == [other]
        assert parts.states(other) == [ReplicaState.READY]
        await parts.manager.stop(name, 1)
        await parts.manager.stop("unknown", 1)


@virtual_time
async def test_pod_of_a_silent_node_is_deleted_by_force():
    async with running() as parts:
        name = await parts.ready()
        parts.api.ends_pods = False
        began = now()
        with pytest.raises(SkysailError, match=f"cannot delete pod {name}"):
            await parts.manager.stop(name, 30)
        # The time to finish, that in which frontends hear of it, and twice that of a kill.
        assert now() - began == pytest.approx(152, abs=1)
        parts.api.end(name)
        await parts.manager.stop(name, 30)
        await settle()
        assert parts.states(name)[-1] is ReplicaState.STOPPED


@virtual_time
async def test_deleted_pod_counts_as_failed():
    async with running() as parts:
        name = await parts.ready()
        parts.api.remove(POD, name)
        await settle()
        assert parts.states(name) == [ReplicaState.READY, ReplicaState.FAILED]
        assert parts.seen[-1].reason == "its pod was deleted"


@virtual_time
async def test_evicted_pod_finishes_its_batches():
    async with running() as parts:
        name = await parts.ready()
        target = {"status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
        parts.tell(name, {**READY, "conditions": conditions(DisruptionTarget=target)})
        parts.api.ends_pods = False
        parts.api.remove(POD, name)
        await settle()
        assert parts.seen[-1].reason == "its pod is removed: drained"
        assert parts.states(name) == [ReplicaState.READY, ReplicaState.FAILED]
        # We do not kill it, and sweeps do not either.
        await parts.manager.sweep(lambda: [version_spec()])
        assert parts.api.called("delete", POD) == []
        # A replacement starts in the meantime.
        assert await parts.start() != name


@virtual_time
async def test_reason_of_a_waiting_pod_is_reported_once():
    async with running() as parts:
        name = await parts.start()

        def waits(reason: str, message: str) -> dict[str, Any]:
            waiting = container("model-server", waiting={"reason": reason, "message": message})
            return {"phase": "Pending", "containerStatuses": [waiting]}

        for _ in range(3):
            parts.tell(name, waits("ErrImagePull", "no such host"))
            await settle()
            parts.tell(name, waits("ImagePullBackOff", "Back-off pulling image"))
            await settle()
        (told,) = parts.seen
        assert told.state is ReplicaState.STARTING
        assert told.reason.endswith("cannot be pulled: no such host")


@virtual_time
async def test_next_management_adopts_running_pods():
    api = FakeKubernetesApi()
    async with running(api) as parts:
        names = [await parts.ready(0), await parts.start(1), await parts.ready(2)]
    api.change(POD, names[2], status=CRASHED)
    async with running(api) as parts:
        await settle()
        listed = {each.container_id: each.state for each in await parts.manager.list()}
        assert listed == {names[0]: ReplicaState.READY, names[1]: ReplicaState.STARTING}
        # The manager reports the changes of the meantime.
        assert [(each.container_id, each.state) for each in parts.seen] == [
            (names[2], ReplicaState.FAILED)
        ]


@virtual_time
async def test_failed_open_releases_the_connection():
    api = FakeKubernetesApi()
    api.errors["list", "Deployment"] = [ContainerManagerUnavailable("no")]
    parts = Parts(api)
    with pytest.raises(ContainerManagerUnavailable):
        await parts.manager.open()
    assert not api.is_open
    await parts.manager.open()
    await parts.manager.close()


@virtual_time
async def test_logs_are_those_of_the_model_server():
    async with running() as parts:
        name = await parts.start()
        parts.api.log_lines[name, "model-server", False] = [b"one", b"two", b"three"]
        assert await parts.log(name, 2) == ["two", "three"]
        parts.api.log_errors = [ClusterRefused("container is waiting to start")]
        assert await parts.log(name) == []


@virtual_time
async def test_replica_without_a_pod_is_not_started():
    async with running() as parts:
        parts.api.has_controllers = False
        start = asyncio.create_task(parts.start())
        await pass_time(31)
        with pytest.raises(SkysailError, match="cannot start m:1/0: no pod was created"):
            await start
        parts.api.control()
        await settle()
        await parts.manager.sweep(lambda: [])
        assert parts.api.names(DEPLOYMENT) == []


def test_default_threads_follow_the_cpu_limit():
    def threads(cpus: float) -> int:
        return Parts(FakeKubernetesApi(), kubernetes_cpus=cpus).manager.default_threads(4)

    assert [threads(cpus) for cpus in (0, 0.5, 2, 2.5)] == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("reason", "earlier", "told"),
    [
        ("image a cannot be pulled", "image a cannot be pulled: no host", "… no host"),
        ("image a cannot be pulled: gone", "image a cannot be pulled: no host", "… gone"),
        ("image a cannot be pulled", "", "image a cannot be pulled"),
        ("", "image a cannot be pulled: no host", ""),
        ("no node can hold it: cpu", "", "no node can hold it: cpu"),
    ],
)
def test_more_specific_reason_is_kept(reason: str, earlier: str, told: str):
    told = told.replace("…", "image a cannot be pulled:")
    seen = Container("c", replica_spec().replica_id, ReplicaState.STARTING, reason=reason)
    assert _with_reason(seen, earlier) == replace(seen, reason=told)


@virtual_time
async def test_list_finds_missed_changes():
    async with running() as parts:
        name, other = await parts.ready(), await parts.ready(1)
        gone = parts.api.objects.pop((POD, name))
        assert [each.container_id for each in await parts.manager.list()] == [other]
        await settle()
        assert parts.states(name) == [ReplicaState.READY, ReplicaState.FAILED]
        # The list also finds an unobserved pod.
        parts.api.objects[POD, name] = gone
        assert {each.container_id for each in await parts.manager.list()} == {name, other}
        parts.api.objects[POD, other]["status"] = CRASHED
        assert [each.container_id for each in await parts.manager.list()] == [name]
        await settle()
        assert parts.states(other)[-1] is ReplicaState.FAILED


@virtual_time
async def test_unreadable_pod_does_not_block_others():
    async with running() as parts:
        strange, other = await parts.ready(), await parts.ready(1)
        parts.api.objects[POD, strange] = {
            **parts.api.objects[POD, strange], "status": {"containerStatuses": [None]},
        }  # fmt: skip
        parts.api.break_watches(ContainerManagerUnavailable("gone"))
        await pass_time(1.0)
        parts.tell(other, CRASHED)
        await settle()
        assert parts.states(other)[-1] is ReplicaState.FAILED


@virtual_time
async def test_ended_pod_watch_ends_the_watch_of_the_manager(monkeypatch):
    async def ends(self) -> None:
        return

    monkeypatch.setattr("skysail_management.containers.kubernetes.pods.KubernetesPods.follow", ends)
    manager = KubernetesManager(settings(), cast(KubernetesApi, FakeKubernetesApi()))
    await manager.open()
    with pytest.raises(SkysailError, match="watch of the container manager ended"):
        await anext(manager.watch())
    await manager.close()


def test_a_fraction_of_a_gpu_is_left_to_the_device_plugin():
    manager = KubernetesManager(settings(), cast(KubernetesApi, FakeKubernetesApi()))
    manager.check_resources(Resources(gpus=2))
    with pytest.raises(Unsupported, match="in the setting kubernetes-gpu-resource"):
        manager.check_resources(Resources(gpus=0.5))

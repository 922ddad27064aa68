import asyncio
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timezone
from typing import cast

from skysail_common.artifacts import SignatureRecord
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.states import ReplicaState
from skysail_common.store import Store
from skysail_common.tensors import InputType
from skysail_management.containers.base import Container
from skysail_management.records import (
    ApplicationRecord,
    DeploymentRecord,
    ModelRecord,
    Records,
    VersionRecord,
)
from skysail_management.routing import APPLY_TIMEOUT_S, Routing, Watcher
from skysail_testing.management_parts import signature_of
from skysail_testing.memory_store import MemoryStore
from skysail_testing.virtual_time import now, settle, virtual_time

M1 = ModelVersion("m", "1")


async def make_records(*versions: str, current: str = "") -> Records:
    records = Records(cast(Store, MemoryStore()))
    await records.load()
    changes = [records.models.put("m", ModelRecord(name="m", current_version=current))]
    for version in versions:
        record = VersionRecord(
            model="m",
            version=version,
            artifact_sha256="0" * 64,
            artifact_bytes=1,
            signature=SignatureRecord.of(signature_of()),
            python_version="3.11.7",
            registered_at=datetime.now(timezone.utc),
        )
        deployment = DeploymentRecord(
            model="m", version=version, num_replicas=2, start_timeout_s=60.0
        )
        name = str(record.model_version)
        changes.append(records.versions.put(name, record))
        changes.append(records.deployments.put(name, deployment))
    await records.commit(changes)
    return records


def box(name: str, index: int = 0, state: ReplicaState = ReplicaState.READY) -> Container:
    return Container(name, ReplicaId(M1, index), state, f"unix:/{name}.sock")


def watcher(name: str = "f1") -> Watcher:
    return Watcher(name, f"{name}:1", f"{name}:2")


@virtual_time
async def test_watcher_gets_the_newest_state_at_once():
    routing = Routing(await make_records("1", current="1"))
    await routing.publish([box("a")])
    await routing.publish([box("a"), box("b", 1)])
    one = watcher()
    with routing.attach(one):
        async with aclosing(routing.snapshots(one)) as snapshots:
            sequence, state = await anext(snapshots)
    assert sequence == 2
    (version,) = state.versions
    assert version.replicas == (("a", "unix:/a.sock"), ("b", "unix:/b.sock"))
    assert version.is_current
    assert version.deployment.num_replicas == 2


@virtual_time
async def test_replicas_with_an_outdated_artifact_are_not_routed():
    routing = Routing(await make_records("1"))
    same, other = (replace(box(name), labels={"artifact": name * 64}) for name in "0f")
    await routing.publish([same, other])
    one = watcher()
    with routing.attach(one):
        async with aclosing(routing.snapshots(one)) as snapshots:
            _, state = await anext(snapshots)
    (version,) = state.versions
    assert version.replicas == ((same.container_id, same.endpoint),)


@virtual_time
async def test_only_ready_replicas_of_deployed_versions_are_routed():
    routing = Routing(await make_records("1", "2", current="2"))
    starting = box("b", 1, ReplicaState.STARTING)
    draining = box("c", 2, ReplicaState.DRAINING)
    stranger = Container("d", ReplicaId(ModelVersion("x", "1"), 0), ReplicaState.READY, "unix:/d")
    await routing.publish([box("a"), starting, draining, stranger])
    one = watcher()
    with routing.attach(one):
        async with aclosing(routing.snapshots(one)) as snapshots:
            _, state = await anext(snapshots)
    assert [(each.record.version, each.is_current) for each in state.versions] == [
        ("1", False),
        ("2", True),
    ]
    assert [each.replicas for each in state.versions] == [(("a", "unix:/a.sock"),), ()]


@virtual_time
async def test_unchanged_state_keeps_its_number():
    routing = Routing(await make_records("1"))
    await routing.publish([box("a"), box("b", 1)])
    one = watcher()
    with routing.attach(one):
        async with aclosing(routing.snapshots(one)) as snapshots:
            assert (await anext(snapshots))[0] == 1
            routing.acknowledge(one, 1)
            # The order of containers means nothing.
            await routing.publish([box("b", 1), box("a")])
            assert not one.changed.is_set()


@virtual_time
async def test_numbers_grow_and_a_slow_watcher_skips_to_the_newest():
    records = await make_records("1")
    routing = Routing(records)
    one = watcher()
    with routing.attach(one):
        async with aclosing(routing.snapshots(one)) as snapshots:
            for number in range(1, 6):
                routing.publish([box(f"c{number}")])
            sequence, state = await anext(snapshots)
            assert sequence == 5
            assert state.versions[0].replicas == (("c5", "unix:/c5.sock"),)
            application = ApplicationRecord(name="app", input_type=InputType.DOUBLES, slo_s=1.0)
            await records.commit([records.applications.put("app", application)])
            routing.publish([box("c5")])
            sequence, state = await anext(snapshots)
            assert (sequence, state.applications) == (6, (application,))


@virtual_time
async def test_change_without_watchers_is_applied_at_once():
    routing = Routing(await make_records("1"))
    begin = now()
    await routing.publish([box("a")])
    assert now() - begin < 0.01


@virtual_time
async def test_change_is_applied_after_every_watcher():
    routing = Routing(await make_records("1"))
    one, two = watcher("f1"), watcher("f2")
    with routing.attach(one), routing.attach(two):
        known = routing.publish([box("a")])
        routing.acknowledge(one, 1)
        assert not known.done()
        routing.acknowledge(two, 1)
        assert known.done()
        await known


@virtual_time
async def test_later_acknowledgement_covers_earlier_states():
    routing = Routing(await make_records("1"))
    one = watcher()
    with routing.attach(one):
        first = routing.publish([box("a")])
        second = routing.publish([box("b")])
        routing.acknowledge(one, 2)
        assert first.done()
        assert second.done()
        # An answer that arrives late does not take that back.
        routing.acknowledge(one, 1)
        assert one.applied_sequence == 2


@virtual_time
async def test_stop_ends_the_streams_of_watchers():
    routing = Routing(await make_records("1"))
    one = watcher()
    with routing.attach(one):
        snapshots = routing.snapshots(one)
        assert (await anext(snapshots))[0] == 0
        routing.stop()
        assert [each async for each in snapshots] == []


@virtual_time
async def test_earlier_acknowledgement_covers_only_the_earlier_change():
    routing = Routing(await make_records("1"))
    one = watcher()
    with routing.attach(one):
        first = routing.publish([box("a")])
        second = routing.publish([box("b")])
        routing.acknowledge(one, 1)
        assert first.done()
        assert not second.done()
        await second


@virtual_time
async def test_wait_for_a_slow_watcher_ends_after_two_seconds():
    routing = Routing(await make_records("1"))
    with routing.attach(watcher()):
        begin = now()
        await routing.publish([box("a")])
        assert APPLY_TIMEOUT_S <= now() - begin < APPLY_TIMEOUT_S + 0.1


@virtual_time
async def test_disconnected_watcher_is_not_awaited():
    routing = Routing(await make_records("1"))
    one, two = watcher("f1"), watcher("f2")
    with routing.attach(two):
        with routing.attach(one):
            known = routing.publish([box("a")])
            routing.acknowledge(two, 1)
            assert not known.done()
        assert known.done()
    assert routing.frontends == []


@virtual_time
async def test_new_watcher_is_awaited():
    routing = Routing(await make_records("1"))
    one = watcher()
    known = routing.publish([box("a")])
    assert known.done()
    with routing.attach(one):
        again = routing.publish([box("a")])
        assert not again.done()
        routing.acknowledge(one, 1)
        assert again.done()


@virtual_time
async def test_cancelled_wait_does_not_disturb_others():
    routing = Routing(await make_records("1"))
    one = watcher()
    with routing.attach(one):
        impatient = routing.publish([box("a")])
        patient = routing.publish([box("a")])
        impatient.cancel()
        routing.acknowledge(one, 1)
        assert patient.done()
        assert not patient.cancelled()
        await settle()


@virtual_time
async def test_frontends_are_listed_by_their_id():
    routing = Routing(await make_records())
    with routing.attach(watcher("f2")), routing.attach(watcher("f1")):
        assert [each.frontend_id for each in routing.frontends] == ["f1", "f2"]


@virtual_time
async def test_watchers_with_one_id_stay_distinct():
    routing = Routing(await make_records("1"))
    old, new = watcher("f1"), watcher("f1")
    with routing.attach(old), routing.attach(new):
        known = routing.publish([box("a")])
        routing.acknowledge(new, 1)
        assert not known.done()
    assert known.done()


@virtual_time
async def test_each_watcher_gets_each_change():
    routing = Routing(await make_records("1"))
    one, two = watcher("f1"), watcher("f2")
    seen: dict[str, list[int]] = {"f1": [], "f2": []}

    async def follow(each: Watcher) -> None:
        async for sequence, _ in routing.snapshots(each):
            seen[each.frontend_id].append(sequence)
            routing.acknowledge(each, sequence)

    with routing.attach(one), routing.attach(two):
        followers = [asyncio.create_task(follow(each)) for each in (one, two)]
        await settle()
        for number in range(3):
            await routing.publish([box(f"c{number}")])
        for each in followers:
            each.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
    assert seen == {"f1": [0, 1, 2, 3], "f2": [0, 1, 2, 3]}

import asyncio
import json
from datetime import datetime, timezone
from typing import cast

import pytest

from skysail_common.artifacts import SignatureRecord
from skysail_common.errors import Conflict, StoreLost, StoreUnavailable
from skysail_common.resources import Resources
from skysail_common.store import RecordChange, Store, Stored, Table
from skysail_common.tensors import InputType
from skysail_management.records import (
    ApplicationRecord,
    DeploymentRecord,
    ModelRecord,
    Records,
    VersionRecord,
)
from skysail_testing.management_parts import signature_of
from skysail_testing.memory_store import MemoryStore
from skysail_testing.virtual_time import pass_time, settle, until, virtual_time


def model(name: str = "m", current: str = "") -> ModelRecord:
    return ModelRecord(name=name, current_version=current)


async def loaded(store: MemoryStore) -> Records:
    records = Records(cast(Store, store))
    await records.load()
    return records


async def put(records: Records, name: str = "m", current: str = "") -> None:
    await records.commit([records.models.put(name, model(name, current))])


@virtual_time
async def test_committed_record_is_visible_here_and_to_the_next_management():
    store = MemoryStore()
    records = await loaded(store)
    await put(records, current="1")
    assert records.models.get("m") == model(current="1")
    assert (await loaded(store)).models.all() == [model(current="1")]


@virtual_time
async def test_a_commit_may_change_and_remove_records_of_several_tables():
    store = MemoryStore()
    records = await loaded(store)
    application = ApplicationRecord(name="a", input_type=InputType.BYTES, slo_s=0.1)
    await records.commit(
        [records.models.put("m", model()), records.applications.put("a", application)]
    )
    await records.commit([records.models.delete("m"), records.applications.put("a", application)])
    assert records.models.all() == []
    assert records.applications.all() == [application]
    assert store.rows[Table.MODELS] == {}


@virtual_time
async def test_a_record_of_a_newer_skysail_may_have_more_fields():
    store = MemoryStore()
    store.rows[Table.MODELS]["m"] = Stored(7, '{"name": "m", "current_version": "1", "new": 1}')
    records = await loaded(store)
    assert records.models.get("m") == model(current="1")
    await put(records, current="2")


DEPLOYMENT = DeploymentRecord(
    model="m",
    version="1",
    num_replicas=2,
    resources=Resources(num_threads=3, memory_mib=512, cpus=1.5, gpus=1),
    environment={"A": "b"},
    start_timeout_s=60.0,
)


def test_the_store_has_each_resource_as_a_field_of_the_deployment():
    stored = json.loads(DEPLOYMENT.model_dump_json())
    assert stored == {
        "model": "m",
        "version": "1",
        "num_replicas": 2,
        "num_threads": 3,
        "memory_mib": 512,
        "cpus": 1.5,
        "gpus": 1,
        "environment": {"A": "b"},
        "autoscaling": None,
        "serving": {
            "max_batch_size": 64,
            "policy": "hybrid",
            "max_queue_delay_s": None,
            "preferred_batch_sizes": [],
            "max_queue_size": None,
            "priority_step_s": 0.1,
            "cache_ttl_s": 0.0,
        },
        "start_timeout_s": 60.0,
        "warm_up": True,
        "is_rolled_out": False,
        "promote_when_ready": False,
        "removes_version_on_failure": False,
        "application": None,
    }
    assert DeploymentRecord.model_validate_json(json.dumps(stored)) == DEPLOYMENT


def test_a_version_keeps_the_resources_of_its_last_deployment():
    version = VersionRecord(
        model="m",
        version="1",
        artifact_sha256="ab" * 32,
        artifact_bytes=1,
        signature=SignatureRecord.of(signature_of()),
        python_version="3.11.2",
        registered_at=datetime(2026, 1, 2, tzinfo=timezone.utc),
        last_deployment=DEPLOYMENT,
    )
    text = version.model_dump_json()
    assert json.loads(text)["last_deployment"]["memory_mib"] == 512
    assert VersionRecord.model_validate_json(text) == version


def test_a_deployment_of_an_earlier_skysail_lacks_later_fields():
    earlier = (
        '{"model": "m", "version": "1", "num_replicas": 2, "num_threads": 3, "memory_mib": 512, '
        '"environment": {"A": "b"}, "start_timeout_s": 60.0}'
    )
    resources = Resources(num_threads=3, memory_mib=512)
    expected = DEPLOYMENT.model_copy(update={"resources": resources})
    assert DeploymentRecord.model_validate_json(earlier) == expected


@virtual_time
async def test_a_conflict_changes_nothing_and_shows_what_the_other_wrote():
    store = MemoryStore()
    mine, other = await loaded(store), await loaded(store)
    await put(other, current="1")
    with pytest.raises(Conflict):
        await put(mine, current="2")
    assert mine.models.get("m") == model(current="1")
    await put(mine, current="2")
    with pytest.raises(Conflict):
        await other.commit([other.models.delete("m")])
    assert other.models.get("m") == model(current="2")


@virtual_time
async def test_conflict_notifies_of_the_other_change():
    store = MemoryStore()
    mine, other = await loaded(store), await loaded(store)
    told = []
    fresh = asyncio.create_task(mine.keep_fresh(lambda: told.append(mine.models.all())))
    await settle()
    await put(other, current="1")
    with pytest.raises(Conflict):
        await put(mine, current="2")
    assert told == [[model(current="1")]]
    fresh.cancel()
    await asyncio.gather(fresh, return_exceptions=True)


@virtual_time
async def test_mirror_survives_a_loss_of_the_store():
    store = MemoryStore()
    records = await loaded(store)
    await put(records, current="1")
    told = []
    fresh = asyncio.create_task(records.keep_fresh(lambda: told.append(1)))
    store.server.flush()
    with pytest.raises(StoreLost):
        await put(records, current="2")
    with pytest.raises(StoreLost):
        await records.load()
    await pass_time(10)
    assert records.models.get("m") == model(current="1")
    assert told == []
    assert await records.restore() == 1
    await until(lambda: told)
    await put(records, current="2")
    assert (await loaded(store)).models.all() == [model(current="2")]
    fresh.cancel()
    await asyncio.gather(fresh, return_exceptions=True)


@virtual_time
async def test_record_is_visible_only_when_durable():
    store = MemoryStore()
    records = await loaded(store)
    store.gate = asyncio.Event()
    committing = asyncio.create_task(put(records))
    await settle()
    assert records.models.get("m") is None
    store.gate.set()
    await committing
    assert records.models.get("m") == model()


@virtual_time
async def test_commit_without_an_answer_is_reloaded():
    store = MemoryStore()
    records = await loaded(store)
    told = []
    fresh = asyncio.create_task(records.keep_fresh(lambda: told.append(records.models.all())))
    store.loses_answer_with = [StoreUnavailable("gone")]
    store.gate = asyncio.Event()
    committing = asyncio.create_task(put(records, current="1"))
    await settle()
    store.fails_with = [StoreUnavailable("gone")] * 3
    store.gate.set()
    with pytest.raises(StoreUnavailable):
        await committing
    assert records.models.all() == []
    await until(lambda: told)
    assert told == [[model(current="1")]]
    await put(records, current="2")
    await pass_time(60)
    assert len(told) == 1, "it is not read again without a reason"
    fresh.cancel()
    await asyncio.gather(fresh, return_exceptions=True)


@virtual_time
async def test_cancelled_commit_is_reloaded():
    store = MemoryStore()
    records = await loaded(store)
    told = []
    fresh = asyncio.create_task(records.keep_fresh(lambda: told.append(records.models.all())))
    store.gate = asyncio.Event()
    committing = asyncio.create_task(put(records, current="1"))
    await settle()
    committing.cancel()
    await asyncio.gather(committing, return_exceptions=True)
    store.gate.set()
    await until(lambda: told)
    assert told == [[model(current="1")]]
    fresh.cancel()
    await asyncio.gather(fresh, return_exceptions=True)


@virtual_time
async def test_conflict_during_an_outage_is_reloaded():
    store = MemoryStore()
    mine, other = await loaded(store), await loaded(store)
    await put(other, current="1")
    store.gate = asyncio.Event()
    committing = asyncio.create_task(put(mine, current="2"))
    await settle()
    store.fails_with = [StoreUnavailable("gone")]
    store.gate.set()
    with pytest.raises((Conflict, StoreUnavailable)):
        await committing
    fresh = asyncio.create_task(mine.keep_fresh(lambda: None))
    await until(lambda: mine.models.get("m") == model(current="1"))
    fresh.cancel()
    await asyncio.gather(fresh, return_exceptions=True)


@virtual_time
async def test_reload_never_hides_a_concurrent_commit():
    store = MemoryStore()
    records = await loaded(store)
    store.gate = asyncio.Event()
    loading = asyncio.create_task(records.load())
    await settle()
    # The first table is read by now, but not visible yet.
    gate, store.gate = store.gate, None
    application = ApplicationRecord(name="a", input_type=InputType.BYTES, slo_s=0.1)
    await records.commit([records.applications.put("a", application)])
    gate.set()
    await loading
    assert records.applications.all() == [application]


@virtual_time
async def test_staleness_during_a_reload_is_kept():
    store = MemoryStore()
    records = await loaded(store)
    gate = store.gate = asyncio.Event()
    loading = asyncio.create_task(records.load())
    await settle()
    store.gate = None
    store.loses_answer_with = [StoreUnavailable("gone")]
    with pytest.raises(StoreUnavailable):
        await put(records, current="1")
    gate.set()
    await loading
    fresh = asyncio.create_task(records.keep_fresh(lambda: None))
    await until(lambda: records.models.get("m") == model(current="1"))
    fresh.cancel()
    await asyncio.gather(fresh, return_exceptions=True)


@virtual_time
async def test_memory_store_rejects_conflicts_like_the_real_store():
    store = MemoryStore()
    change = RecordChange(Table.MODELS, "m", 0, "{}")
    assert await store.commit([change]) == 1
    with pytest.raises(Conflict):
        await store.commit([RecordChange(Table.MODELS, "n", 0, "{}"), change])
    assert set(store.rows[Table.MODELS]) == {"m"}

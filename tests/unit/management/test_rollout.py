from datetime import datetime, timezone
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysail_common.artifacts import SignatureRecord
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.states import ReplicaState
from skysail_common.store import Store
from skysail_management.catalog.current_version import promote
from skysail_management.catalog.versions import removal_changes
from skysail_management.containers.base import Container
from skysail_management.reconciler.rollout import failure_text
from skysail_management.records import ModelRecord, Records, VersionRecord
from skysail_testing.management_parts import signature_of
from skysail_testing.memory_store import MemoryStore

names = st.sampled_from(["1", "2", "3", "4", "5"])


def version_record(model: str, version: str) -> VersionRecord:
    return VersionRecord(
        model=model,
        version=version,
        artifact_sha256="0" * 64,
        artifact_bytes=1,
        signature=SignatureRecord.of(signature_of()),
        python_version="3.11.7",
        registered_at=datetime.now(timezone.utc),
    )


async def records_with(model: ModelRecord, *versions: str) -> Records:
    records = Records(cast(Store, MemoryStore()))
    await records.load()
    changes = [records.models.put(model.name, model)]
    for version in versions:
        record = version_record(model.name, version)
        changes.append(records.versions.put(str(record.model_version), record))
    other = version_record("other", "1")
    changes.append(records.models.put("other", ModelRecord(name="other", current_version="1")))
    changes.append(records.versions.put("other:1", other))
    await records.commit(changes)
    return records


@pytest.mark.parametrize(
    ("memory_mib", "endpoint", "is_permanent", "log_tail", "is_named"),
    [
        (0, "unix:/s", False, "", False),
        (100, "unix:/s", False, "can't start new thread", True),
        (
            100,
            "unix:/s",
            True,
            "numpy._core._exceptions._ArrayMemoryError: Unable to allocate",
            True,
        ),
        (100, "unix:/s", True, "ValueError: bad weights", False),
        # The replica never ran, because no node had room.
        (100, "", False, "", False),
    ],
)
def test_failure_names_a_possible_memory_limit(
    memory_mib, endpoint, is_permanent, log_tail, is_named
):
    container = Container(
        "c", ReplicaId.parse("m:1/0"), ReplicaState.FAILED, endpoint, "killed by SIGABRT",
        is_permanent=is_permanent, log_tail=log_tail,
    )  # fmt: skip
    hint = "; its memory limit is 100 MiB, which may be too low" if is_named else ""
    assert failure_text(container, memory_mib) == f"m:1/0 failed: killed by SIGABRT{hint}"


def test_the_first_promotion_has_no_history():
    model = promote(ModelRecord(name="m"), ModelVersion("m", "1"))
    assert (model.current_version, model.previous_versions) == ("1", ())


def test_promotion_appends_the_current_version_to_the_history():
    model = ModelRecord(name="m", current_version="2", previous_versions=("1",))
    model = promote(model, ModelVersion("m", "3"))
    assert (model.current_version, model.previous_versions) == ("3", ("1", "2"))


def test_repeated_promotion_removes_the_old_history_entry():
    model = ModelRecord(name="m", current_version="3", previous_versions=("1", "2"))
    model = promote(model, ModelVersion("m", "1"))
    assert (model.current_version, model.previous_versions) == ("1", ("2", "3"))


def test_the_history_is_bounded():
    model = ModelRecord(name="m")
    for number in range(60):
        model = promote(model, ModelVersion("m", str(number)))
    assert len(model.previous_versions) == 50
    assert model.previous_versions[-1] == "58"


@given(st.lists(names, min_size=1, max_size=12))
def test_history_has_no_duplicates_and_no_current_version(versions):
    model = ModelRecord(name="m")
    for version in versions:
        if version != model.current_version:
            model = promote(model, ModelVersion("m", version))
        everything = [*model.previous_versions, model.current_version]
        assert len(set(everything)) == len(everything)
        assert set(everything) <= set(versions)
    assert model.current_version == versions[-1]


async def test_removal_of_the_last_version_removes_the_model():
    records = await records_with(ModelRecord(name="m", current_version="1"), "1")
    await records.commit(removal_changes(records, ModelVersion("m", "1")))
    assert records.models.get("m") is None
    assert [str(each.model_version) for each in records.versions.all()] == ["other:1"]
    assert records.models.get("other") is not None


@pytest.mark.parametrize(
    ("removed", "current", "previous"),
    [("1", "3", ("2",)), ("2", "3", ("1",)), ("4", "3", ("1", "2"))],
)
async def test_removed_version_leaves_the_history(removed, current, previous):
    model = ModelRecord(name="m", current_version="3", previous_versions=("1", "2"))
    records = await records_with(model, "1", "2", "3", "4")
    changes = removal_changes(records, ModelVersion("m", removed))
    # A model in which nothing changes is not written: nobody else's change is lost.
    assert len(changes) == (2 if removed == "4" else 3)
    await records.commit(changes)
    left = records.models.get("m")
    assert left is not None
    assert (left.current_version, left.previous_versions) == (current, previous)
    assert records.versions.get(f"m:{removed}") is None


async def test_version_without_a_model_can_be_removed():
    records = await records_with(ModelRecord(name="m"), "1")
    await records.commit([records.models.delete("m")])
    await records.commit(removal_changes(records, ModelVersion("m", "1")))
    assert records.versions.get("m:1") is None

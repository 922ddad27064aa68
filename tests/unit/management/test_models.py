from pathlib import Path

import pytest

from skysail_common.errors import (
    AlreadyExists,
    ArtifactNotFound,
    FailedPrecondition,
    InputTypeMismatch,
    InvalidInput,
    ModelInUse,
    ModelNotFound,
    NoReadyReplica,
)
from skysail_common.identifiers import ModelVersion
from skysail_common.tensors import InputType
from skysail_management.records import RouteRecord
from skysail_testing.management_parts import (
    ManagementParts,
    make_artifact,
    running_parts,
    sha256_of,
)
from skysail_testing.virtual_time import pass_time, until, virtual_time

M1 = ModelVersion("m", "1")
M2 = ModelVersion("m", "2")


async def route(parts: ManagementParts, *routes: RouteRecord) -> None:
    await parts.applications.register("app", InputType.DOUBLES, 1.0, None)
    await parts.applications.set_routes("app", routes)


@virtual_time
async def test_registered_version_has_the_values_of_its_artifact(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        content = make_artifact(requirements=["six"])
        sha256 = await parts.upload(content)
        record = await parts.models.register(M1, sha256, {"git": "abc"})
        assert parts.models.version("m", "1") == record
        assert record.model_version == M1
        assert record.artifact_sha256 == sha256
        assert record.artifact_bytes == len(content)
        assert record.requirements == ("six",)
        assert record.input_type is InputType.DOUBLES
        assert record.labels == {"git": "abc"}
        assert parts.models.get("m").current_version == ""
        assert parts.manager.started == []


@virtual_time
async def test_repeated_registration_changes_nothing(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        sha256 = await parts.register("m:1")
        record = parts.models.version("m", "1")
        commits = parts.store.num_commits
        assert await parts.models.register(M1, sha256, {}) == record
        assert await parts.models.register(M1, "", {}) == record
        assert parts.store.num_commits == commits


@virtual_time
async def test_given_labels_are_set_and_others_stay(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        sha256 = await parts.register("m:1")
        await parts.models.register(M1, sha256, {"git": "abc", "team": "a"})
        await parts.models.register(M1, sha256, {"git": "def"})
        assert parts.models.version("m", "1").labels == {"git": "def", "team": "a"}
        with pytest.raises(InvalidInput, match="at most 64 labels"):
            await parts.models.register(M1, sha256, {str(n): "" for n in range(63)})
        with pytest.raises(InvalidInput, match="'long' has more than 1000 characters"):
            await parts.models.register(M1, sha256, {"long": "x" * 1001})


@virtual_time
async def test_version_is_immutable(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        other = await parts.upload(make_artifact("other"))
        with pytest.raises(AlreadyExists, match="versions never change"):
            await parts.models.register(M1, other, {})


@virtual_time
async def test_rejection_of_another_artifact_names_different_packages(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        first = await parts.upload(make_artifact(packages={"cloudpickle": "3.1.2", "six": "1"}))
        await parts.models.register(M1, first, {})
        second = await parts.upload(make_artifact(packages={"cloudpickle": "3.1.3", "six": "1"}))
        with pytest.raises(AlreadyExists) as caught:
            await parts.models.register(M1, second, {})
        assert caught.value.message == (
            "model 'm:1' is registered with other content (this content uses "
            "cloudpickle 3.1.3, the registered content cloudpickle 3.1.2); versions never change, so deploy this as a new version"
        )
        third = await parts.upload(make_artifact(packages={"six": "1"}))
        with pytest.raises(
            AlreadyExists, match="uses no cloudpickle, the registered content cloudp"
        ):
            await parts.models.register(M1, third, {})


@virtual_time
async def test_register_needs_an_uploaded_artifact(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(ArtifactNotFound):
            await parts.models.register(M1, "0" * 64, {})
        with pytest.raises(InvalidInput, match="sha256"):
            await parts.models.register(M1, "../../etc/passwd", {})
        with pytest.raises(ModelNotFound, match="'m:1' is not registered"):
            await parts.models.register(M1, "", {})
        assert parts.models.all() == []


@pytest.mark.parametrize(("model", "version"), [("", "1"), ("m", ""), ("a:b", "1"), ("m", "1/2")])
@virtual_time
async def test_names_are_checked(tmp_path: Path, model, version):
    async with running_parts(tmp_path) as parts:
        sha256 = await parts.upload(make_artifact())
        with pytest.raises(InvalidInput, match="not a legal name"):
            await parts.models.register(ModelVersion(model, version), sha256, {})


@virtual_time
async def test_labels_are_checked(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        sha256 = await parts.upload(make_artifact())
        with pytest.raises(InvalidInput, match="label 'a b'"):
            await parts.models.register(M1, sha256, {"a b": ""})
        with pytest.raises(InvalidInput, match="at most 64 labels"):
            await parts.models.register(M1, sha256, {str(n): "" for n in range(65)})
        # The artifact of a rejected registration is removed.
        sha256 = await parts.upload(make_artifact("m:1"))
        await parts.models.register(M1, sha256, {str(n): "" for n in range(64)})


@virtual_time
async def test_new_version_must_fit_the_applications_of_its_model(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        await route(parts, RouteRecord(model="m"))
        with pytest.raises(InputTypeMismatch, match="'app' takes doubles"):
            await parts.register("m:2", InputType.STRINGS)
        await parts.register("other:2", InputType.STRINGS)


@virtual_time
async def test_route_to_one_version_does_not_constrain_another(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        await route(parts, RouteRecord(model="m", version="1"))
        await parts.register("m:2", InputType.STRINGS)


@virtual_time
async def test_versions_are_listed_by_model(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for name in ("m:2", "k:1", "m:1"):
            await parts.register(name)
        assert [record.name for record in parts.models.all()] == ["k", "m"]
        assert [str(each.model_version) for each in parts.models.versions()] == [
            "k:1",
            "m:1",
            "m:2",
        ]
        assert [str(each.model_version) for each in parts.models.versions("m")] == ["m:1", "m:2"]
        with pytest.raises(ModelNotFound):
            parts.models.versions("x")


@virtual_time
async def test_empty_version_means_the_current_one(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(ModelNotFound, match="model 'm' is not registered"):
            parts.models.version("m", "")
        await parts.register("m:1")
        with pytest.raises(ModelNotFound, match="model 'm' has no current version"):
            parts.models.version("m", "")
        with pytest.raises(ModelNotFound, match="model 'm:9' is not registered"):
            parts.models.version("m", "9")
        await parts.deployed("m:1", promote=True)
        assert parts.models.version("m", "").version == "1"


@virtual_time
async def test_unregister_removes_versions_and_artifacts(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        sha256 = await parts.register("m:1")
        await parts.register("m:2")
        kept = await parts.register("k:1")
        await parts.models.unregister("m")
        assert [str(each.model_version) for each in parts.models.versions()] == ["k:1"]
        assert not await parts.artifacts.find(sha256)
        assert await parts.artifacts.find(kept)
        with pytest.raises(ModelNotFound):
            await parts.models.unregister("m")


@virtual_time
async def test_model_in_use_is_not_removed(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        await route(parts, RouteRecord(model="m", version="1"))
        with pytest.raises(ModelInUse, match="'app' is routed to model 'm:1'"):
            await parts.models.unregister("m")
        await parts.applications.unregister("app")
        await parts.deployed("m:2")
        with pytest.raises(ModelInUse, match="'m:2' is deployed"):
            await parts.models.unregister("m")
        await parts.deployments.undeploy("m", "2", force=False)
        await parts.models.unregister("m")


@virtual_time
async def test_version_in_use_is_not_removed(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for name in ("m:1", "m:2"):
            await parts.register(name)
        await route(parts, RouteRecord(model="m", version="1"))
        await parts.deployed("m:2")
        with pytest.raises(ModelInUse, match="routed"):
            await parts.models.unregister_version(M1)
        with pytest.raises(ModelInUse, match="deployed"):
            await parts.models.unregister_version(M2)
        with pytest.raises(ModelNotFound):
            await parts.models.unregister_version(ModelVersion("m", "3"))
        await parts.deployments.undeploy("m", "2", force=False)
        await parts.models.unregister_version(M2)
        assert [record.version for record in parts.models.versions("m")] == ["1"]


@virtual_time
async def test_the_last_version_stays_while_an_application_is_routed_to_its_model(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for name in ("m:1", "m:2"):
            await parts.register(name)
        await route(parts, RouteRecord(model="m"))
        await parts.models.unregister_version(M1)
        with pytest.raises(ModelInUse, match="routed"):
            await parts.models.unregister_version(M2)


@virtual_time
async def test_an_artifact_that_two_versions_share_stays_with_the_last(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        sha256 = await parts.register("m:1")
        await parts.models.register(M2, sha256, {})
        await parts.models.unregister_version(M1)
        assert parts.artifacts.size_bytes(sha256) > 0
        await parts.models.unregister_version(M2)
        with pytest.raises(ArtifactNotFound):
            parts.artifacts.size_bytes(sha256)


@virtual_time
async def test_promote_returns_the_previous_version(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1")
        assert await parts.models.promote(M1) == ""
        await parts.deployed("m:2")
        assert await parts.models.promote(M2) == "1"
        assert await parts.models.promote(M2) == "2"
        assert parts.models.get("m").previous_versions == ("1",)


@virtual_time
async def test_promote_needs_a_ready_replica(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(ModelNotFound):
            await parts.models.promote(M1)
        await parts.register("m:1")
        with pytest.raises(NoReadyReplica, match="'m:1' has no ready replica"):
            await parts.models.promote(M1)
        await parts.deployed("m:1")
        parts.manager.fail("c1")
        await until(lambda: parts.reconciler.num_ready(M1) == 0)
        with pytest.raises(NoReadyReplica):
            await parts.models.promote(M1)
        await until(lambda: parts.reconciler.num_ready(M1) == 1)
        await parts.models.promote(M1)


@virtual_time
async def test_rollback_goes_back_further_each_time(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for version in ("1", "2", "3"):
            await parts.deployed(f"m:{version}", promote=True)
        assert await parts.models.rollback("m") == ("2", "3")
        assert await parts.models.rollback("m") == ("1", "2")
        with pytest.raises(FailedPrecondition, match="it has no previous version"):
            await parts.models.rollback("m")
        assert parts.models.get("m").current_version == "1"


@virtual_time
async def test_rollback_needs_a_ready_replica(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(ModelNotFound):
            await parts.models.rollback("m")
        await parts.deployed("m:1", promote=True)
        await parts.deployed("m:2", promote=True)
        await parts.deployments.undeploy("m", "1", force=False)
        await until(lambda: parts.reconciler.num_ready(M1) == 0)
        with pytest.raises(NoReadyReplica):
            await parts.models.rollback("m")
        assert parts.models.get("m").current_version == "2"


@virtual_time
async def test_registered_artifact_survives_the_end_of_its_reservation(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        registered = await parts.register("m:1")
        forgotten = await parts.upload(make_artifact("forgotten"))
        await pass_time(640)
        assert parts.artifacts.size_bytes(registered) > 0
        with pytest.raises(ArtifactNotFound):
            parts.artifacts.size_bytes(forgotten)
        assert forgotten == sha256_of(make_artifact("forgotten"))

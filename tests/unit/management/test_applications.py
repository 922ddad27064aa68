import json
from pathlib import Path

import pytest

from skysail_common.errors import (
    AlreadyExists,
    ApplicationNotFound,
    InputTypeMismatch,
    InvalidInput,
    ModelNotFound,
)
from skysail_common.identifiers import ModelVersion
from skysail_common.tensors import InputType
from skysail_management.catalog.rules import check_input_type
from skysail_management.records import ApplicationRecord, RouteRecord
from skysail_management.routing import Watcher
from skysail_testing.management_parts import ManagementParts, running_parts
from skysail_testing.virtual_time import virtual_time


async def register(parts: ManagementParts, name: str = "app", **changes) -> ApplicationRecord:
    values = {"input_type": InputType.DOUBLES, "slo_s": 0.1, "default_output_json": "[0]"}
    return await parts.applications.register(name, **{**values, **changes})


@virtual_time
async def test_register_adds_an_application(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        record = await register(parts)
        assert parts.applications.get("app") == record
        assert (record.input_type, record.slo_s) == (InputType.DOUBLES, 0.1)
        assert record.routes == ()


@virtual_time
async def test_applications_are_listed_by_name(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for name in ("b", "c", "a"):
            await register(parts, name)
        assert [record.name for record in parts.applications.all()] == ["a", "b", "c"]


@virtual_time
async def test_repeated_registration_changes_nothing_not_even_routes(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        await register(parts)
        routed = await parts.applications.set_routes("app", [RouteRecord(model="m")])
        commits = parts.store.num_commits
        assert await register(parts, default_output_json=" [ 0 ] ") == routed
        assert parts.store.num_commits == commits


@pytest.mark.parametrize(
    "changes",
    [
        {"input_type": InputType.STRINGS},
        {"slo_s": 0.2},
        {"default_output_json": "[1]"},
        {"default_output_json": None},
    ],
)
@virtual_time
async def test_registration_with_other_values_is_rejected(tmp_path: Path, changes):
    async with running_parts(tmp_path) as parts:
        record = await register(parts)
        with pytest.raises(AlreadyExists, match="'app' is registered with other values"):
            await register(parts, **changes)
        assert parts.applications.get("app") == record


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "ä", "x" * 64, "v2", "metrics"])
@virtual_time
async def test_invalid_name_is_rejected(tmp_path: Path, name):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(InvalidInput):
            await register(parts, name)


NO_DEFAULT_OUTPUTS = {
    "no JSON": "{",
    "nothing": "",
    "not a number": "NaN",
    "infinite": "[1, -Infinity]",
    "a surrogate": '"\\ud800"',
    "nested too deep to read": "[" * 30_000 + "]" * 30_000,
    "nested too deep to write": "[" * 500 + "]" * 500,
    "large": json.dumps("x" * 65_536),
}


@pytest.mark.parametrize("text", NO_DEFAULT_OUTPUTS.values(), ids=NO_DEFAULT_OUTPUTS)
@virtual_time
async def test_default_output_that_frontends_cannot_encode_is_rejected(tmp_path: Path, text):
    async with running_parts(tmp_path) as parts:
        with pytest.raises(InvalidInput, match="the default output is"):
            await register(parts, default_output_json=text)
        await register(parts)
        with pytest.raises(InvalidInput, match="the default output is"):
            await parts.applications.update("app", None, text)


@pytest.mark.parametrize("value", [None, 0, -1.5, "none", "ä\n\x00", [], {"a": [True]}, 2**63])
@virtual_time
async def test_any_json_is_a_default_output(tmp_path: Path, value):
    async with running_parts(tmp_path) as parts:
        record = await register(parts, default_output_json=json.dumps(value))
        assert record.default_output_json is not None
        assert json.loads(record.default_output_json) == value


@virtual_time
async def test_update_changes_only_given_fields(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await register(parts)
        record = await parts.applications.update("app", 0.5, None)
        assert (record.slo_s, record.default_output_json) == (0.5, "[0]")
        record = await parts.applications.update("app", None, '"none"')
        assert (record.slo_s, record.default_output_json) == (0.5, '"none"')
        assert parts.applications.get("app") == record


@virtual_time
async def test_unregistered_application_is_not_found(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for refused in (
            parts.applications.update("app", 1.0, None),
            parts.applications.unregister("app"),
            parts.applications.set_routes("app", []),
        ):
            with pytest.raises(ApplicationNotFound, match="'app' is not registered"):
                await refused
        with pytest.raises(ApplicationNotFound):
            parts.applications.get("app")


@virtual_time
async def test_unregister_removes_the_application_and_its_routes(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        await register(parts)
        await parts.applications.set_routes("app", [RouteRecord(model="m")])
        await parts.applications.unregister("app")
        assert (await register(parts)).routes == ()


@virtual_time
async def test_routes_are_replaced(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        await parts.register("m:2")
        await register(parts)
        routes = (RouteRecord(model="m"), RouteRecord(model="m", version="2", weight=0.1))
        assert (await parts.applications.set_routes("app", routes)).routes == routes
        assert (await parts.applications.set_routes("app", [])).routes == ()


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
@virtual_time
async def test_weight_must_be_a_number_above_zero(tmp_path: Path, weight):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        await register(parts)
        with pytest.raises(InvalidInput, match="weight"):
            await parts.applications.set_routes("app", [RouteRecord(model="m", weight=weight)])


@virtual_time
async def test_duplicate_routes_are_rejected(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        await register(parts)
        with pytest.raises(InvalidInput, match="two routes"):
            await parts.applications.set_routes("app", [RouteRecord(model="m")] * 2)


@virtual_time
async def test_route_to_an_unregistered_model_is_rejected(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        await register(parts)
        with pytest.raises(ModelNotFound, match="model 'x' is not registered"):
            await parts.applications.set_routes("app", [RouteRecord(model="x")])
        with pytest.raises(ModelNotFound, match="model 'm:2' is not registered"):
            await parts.applications.set_routes("app", [RouteRecord(model="m", version="2")])
        assert parts.applications.get("app").routes == ()


@virtual_time
async def test_route_to_another_input_type_is_rejected(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        await parts.register("m:2", InputType.STRINGS)
        await register(parts)
        with pytest.raises(InputTypeMismatch, match="'app' takes doubles, but model 'm:2' takes"):
            await parts.applications.set_routes("app", [RouteRecord(model="m", version="2")])
        # A route to the current version may come to lead to any of them.
        with pytest.raises(InputTypeMismatch):
            await parts.applications.set_routes("app", [RouteRecord(model="m")])
        await parts.applications.set_routes("app", [RouteRecord(model="m", version="1")])


@pytest.mark.parametrize("taken", list(InputType))
@pytest.mark.parametrize("offered", list(InputType))
def test_tensor_application_accepts_routes_to_any_input_type(taken, offered):
    application = ApplicationRecord(name="app", input_type=taken, slo_s=1.0)
    if taken in (InputType.TENSORS, offered):
        check_input_type(application, ModelVersion("m", "1"), offered)
    else:
        with pytest.raises(InputTypeMismatch):
            check_input_type(application, ModelVersion("m", "1"), offered)


@virtual_time
async def test_every_change_reaches_the_frontends(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.register("m:1")
        watcher = Watcher("f1", "", "")
        with parts.routing.attach(watcher):
            snapshots = parts.routing.snapshots(watcher)
            parts.routing.acknowledge(watcher, 10**6)
            assert (await anext(snapshots))[1].applications == ()
            record = await register(parts)
            assert (await anext(snapshots))[1].applications == (record,)
            record = await parts.applications.update("app", 9.0, None)
            assert (await anext(snapshots))[1].applications == (record,)
            record = await parts.applications.set_routes("app", [RouteRecord(model="m")])
            assert (await anext(snapshots))[1].applications == (record,)
            await parts.applications.unregister("app")
            assert (await anext(snapshots))[1].applications == ()
            await snapshots.aclose()

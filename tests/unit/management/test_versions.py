"""Versions that the server names."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.identifiers import ModelVersion
from skysail_management.catalog.versions import version_number
from skysail_management.events import DeployStep
from skysail_testing.management_parts import ManagementParts, make_artifact, running_parts
from skysail_testing.virtual_time import pass_time, virtual_time


async def run(parts: ManagementParts, content: str, name: str = "m:", **spec) -> str:
    """Deploy content without a version and return the name that it got."""
    sha256 = await parts.upload(make_artifact(content))
    events = await parts.deploy(name, sha256, **{"promote": None, **spec})
    (version,) = {event.version for event in events}
    return version


@virtual_time
async def test_new_artifact_gets_the_next_number_and_a_known_one_its_own(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        assert [await run(parts, each) for each in "aabba"] == ["1", "1", "2", "2", "1"]
        # The cell that is run again does not promote what it once deployed.
        assert parts.models.get("m").current_version == "2"
        assert len(parts.manager.started) == 2
        assert await run(parts, "a", "other:") == "1"


@virtual_time
async def test_given_numeric_names_count(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for name in ("m:1.5", "m:beta", "m:007"):
            await parts.deployed(name)
        assert await run(parts, "new") == "8"
        assert await run(parts, "m:beta") == "beta"


@virtual_time
async def test_newest_version_of_an_artifact_is_used(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        sha256 = await parts.upload(make_artifact("a"))
        for name in ("m:9", "m:10", "m:2"):
            await parts.deployed(name, sha256=sha256)
        assert await run(parts, "a") == "2"


@virtual_time
async def test_number_of_an_unregistered_version_is_not_reused(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for content in "ab":
            await run(parts, content)
        await run(parts, "c", promote=False)
        await parts.deployments.undeploy("m", "3", force=False)
        await parts.models.unregister_version(ModelVersion("m", "3"))
        assert await run(parts, "d") == "4"


@virtual_time
async def test_number_of_a_failed_version_is_reused(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await run(parts, "a")
        parts.manager.fails_with = [{"is_permanent": True}]
        sha256 = await parts.upload(make_artifact("bad"))
        events = await parts.deploy("m:", sha256, promote=None)
        assert (events[-1].step, events[-1].version) == (DeployStep.FAILED, "2")
        assert await run(parts, "b") == "2"


@virtual_time
async def test_concurrent_callers_get_different_numbers(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        found = await asyncio.gather(*(run(parts, str(number % 4)) for number in range(8)))
        assert sorted(found) == ["1", "1", "2", "2", "3", "3", "4", "4"]
        assert found[:4] == found[4:]


@virtual_time
async def test_rejected_request_uses_no_number(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        for name in ("a b:", ":"):
            sha256 = await parts.upload(make_artifact("x"))
            with pytest.raises(InvalidInput, match="not a legal name"):
                await anext(parts.deploying(name, sha256))
        assert parts.records.versions.all() == []
        await pass_time(1)
        assert await run(parts, "x") == "1"


@given(st.integers(0, 10**62))
def test_numeric_name_is_parsed(number):
    assert version_number(str(number)) == number


@pytest.mark.parametrize("name", ["", "1.0", "v1", "-1", "1a"])
def test_other_names_have_no_number(name):
    assert version_number(name) == 0

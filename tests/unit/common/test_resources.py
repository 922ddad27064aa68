import pytest

from skysail_common.errors import InvalidInput
from skysail_common.resources import ResourceChanges, Resources
from skysail_common.rpc.resource_messages import (
    resource_changes_from_proto,
    resources_from_proto,
    resources_to_proto,
)


@pytest.mark.parametrize(
    "values", [{}, {"cpus": 0.25, "gpus": 1024}, {"cpus": 1024.0}, {"gpus": 0.25}]
)
def test_resources_in_range(values):
    Resources(**values).check()
    ResourceChanges(**values).check()


@pytest.mark.parametrize("values", [{"cpus": -1.0}, {"cpus": float("nan")}, {"gpus": 1025}])
def test_resources_out_of_range(values):
    for resources in (Resources(**values), ResourceChanges(**values)):
        with pytest.raises(InvalidInput, match="cpus and gpus of a replica must be from 0 to 1024"):
            resources.check()


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [(1.5, "give a whole number, or a number below 1"), (0.001, "smallest fraction is 0.01")],
)
def test_gpus_are_whole_or_a_fraction_of_one(gpus: float, reason: str):
    with pytest.raises(InvalidInput, match=reason):
        Resources(gpus=gpus).check()


def test_changes_replace_the_given_values():
    changes = ResourceChanges(cpus=0.0, gpus=2)
    assert changes.given() == {"cpus": 0.0, "gpus": 2}
    assert changes.apply(Resources(1, 2, 3.0, 4)) == Resources(1, 2, 0.0, 2)
    assert ResourceChanges().apply(Resources(1, 2, 3.0, 4)) == Resources(1, 2, 3.0, 4)


def test_resources_as_messages():
    resources = Resources(1, 2, 0.5, 4)
    assert resources_from_proto(resources_to_proto(resources)) == resources
    changes = ResourceChanges(memory_mib=0, cpus=0.5)
    message = resources_to_proto(changes)
    assert [field.name for field, _ in message.ListFields()] == ["memory_mib", "cpus"]
    assert resource_changes_from_proto(message) == changes

import pytest

from skysail_common.errors import InvalidInput
from skysail_common.rpc.messages import (
    serving_changes,
    serving_from_proto,
    serving_paths,
    serving_to_proto,
)
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_protos.v1 import routing_pb2


@pytest.mark.parametrize(
    "options",
    [
        ServingOptions(),
        ServingOptions(
            max_batch_size=32,
            policy=PolicyName.AIMD,
            max_queue_delay_s=0.005,
            preferred_batch_sizes=(8, 16),
            max_queue_size=100,
            priority_step_s=0.0,
            cache_ttl_s=60.0,
        ),
        ServingOptions(max_queue_delay_s=0.0),
        *(ServingOptions(policy=policy) for policy in PolicyName),
    ],
)
def test_options_survive_the_wire(options):
    assert serving_from_proto(serving_to_proto(options), 7) == options


def test_absent_fields_of_a_message_have_defaults():
    found = serving_from_proto(routing_pb2.ServingOptions(), 7)
    assert found == ServingOptions(max_batch_size=7)


def test_the_error_names_an_unknown_policy():
    with pytest.raises(InvalidInput, match="99"):
        serving_from_proto(routing_pb2.ServingOptions(policy=99), 7)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be from 1 to 65536"),
        ({"max_batch_size": 65_537}, "max_batch_size"),
        ({"preferred_batch_sizes": (8, 4)}, "preferred_batch_sizes must ascend"),
        ({"preferred_batch_sizes": (4, 4)}, "preferred_batch_sizes"),
        ({"preferred_batch_sizes": (0, 4)}, "preferred_batch_sizes"),
        ({"preferred_batch_sizes": (65,)}, "from 1 to 64"),
        ({"max_queue_size": 0}, "max_queue_size"),
        ({"max_queue_delay_s": -1.0}, "max_queue_delay_s"),
        ({"cache_ttl_s": float("nan")}, "cache_ttl_s"),
        ({"priority_step_s": 1e9}, "priority_step_s"),
    ],
)
def test_the_error_about_an_option_names_it(change, what):
    with pytest.raises(InvalidInput, match=what):
        ServingOptions(**change).check()


def test_a_change_contains_the_set_or_named_fields():
    message = routing_pb2.ServingOptions(max_batch_size=8, preferred_batch_sizes=[2, 4])
    assert serving_changes(message, 64) == {
        "max_batch_size": 8,
        "preferred_batch_sizes": (2, 4),
    }
    # A named field that is not set returns to its default.
    paths = ["max_batch_size", "max_queue_delay", "cache_ttl"]
    assert serving_changes(routing_pb2.ServingOptions(), 64, paths) == {
        "max_batch_size": 64,
        "max_queue_delay_s": None,
        "cache_ttl_s": 0.0,
    }
    assert serving_changes(message, 64, []) == {}
    with pytest.raises(InvalidInput, match="serving options have no field 'speed'"):
        serving_changes(message, 64, ["speed"])


def test_every_option_has_a_field():
    assert len(serving_paths(vars(ServingOptions()))) == len(vars(ServingOptions()))
    assert serving_paths(vars(ServingOptions())) == [
        field.name for field in routing_pb2.ServingOptions.DESCRIPTOR.fields
    ]

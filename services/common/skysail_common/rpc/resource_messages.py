"""Resources of replicas as protobuf messages, and back."""

from skysail_common.resources import ResourceChanges, Resources
from skysail_protos.v1 import management_pb2


def resources_from_proto(message: management_pb2.Resources) -> Resources:
    """Return the resources of a message; an absent field is 0."""
    return Resources(message.num_threads, message.memory_mib, message.cpus, message.gpus)


def resource_changes_from_proto(message: management_pb2.Resources) -> ResourceChanges:
    """Return the resources that a message gives; an absent field is None."""
    return ResourceChanges(
        message.num_threads if message.HasField("num_threads") else None,
        message.memory_mib if message.HasField("memory_mib") else None,
        message.cpus if message.HasField("cpus") else None,
        message.gpus if message.HasField("gpus") else None,
    )


def resources_to_proto(resources: Resources | ResourceChanges) -> management_pb2.Resources:
    """Return the message of resources; None leaves a field absent."""
    return management_pb2.Resources(
        num_threads=resources.num_threads,
        memory_mib=resources.memory_mib,
        cpus=resources.cpus,
        gpus=resources.gpus,
    )

"""Conversion of tensors, signatures and options to protobuf messages and back."""

from collections.abc import Iterable
from typing import Any, cast

from google.protobuf.duration_pb2 import Duration

from skysail_common.errors import InvalidInput, shown
from skysail_common.replica_description import PackageDifference, ReplicaDescription
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_common.tensors import Content, DataType, InputType, Signature, Tensor, TensorSpec
from skysail_protos.v1 import model_server_pb2, routing_pb2, tensors_pb2

_MAX_DURATION_S = 86_400 * 365.0
_POLICY_PREFIX = len("BATCHING_POLICY_")
_SERVING_FIELDS = {
    "max_batch_size": "max_batch_size",
    "policy": "policy",
    "max_queue_delay": "max_queue_delay_s",
    "preferred_batch_sizes": "preferred_batch_sizes",
    "max_queue_size": "max_queue_size",
    "priority_step": "priority_step_s",
    "cache_ttl": "cache_ttl_s",
}
"""Field of `ServingOptions` by the field of its message."""


def datatype_from_proto(number: int, name: str) -> DataType:
    """Return the type of this number.

    Raises:
        InvalidInput: no type has this number; the message names the tensor.
    """
    try:
        return DataType(number)
    except ValueError as error:
        raise InvalidInput(f"tensor {shown(name)!r} has no known datatype ({number})") from error


def _content_from_proto(number: int, name: str) -> Content:
    try:
        return Content(number)
    except ValueError as error:
        raise InvalidInput(f"tensor {shown(name)!r} has no known content ({number})") from error


def tensor_from_proto(message: tensors_pb2.Tensor) -> Tensor:
    """Return the tensor of a message, without a check that its data fit its shape.

    Raises:
        InvalidInput: the datatype is unknown.
    """
    return Tensor(
        message.name,
        datatype_from_proto(message.datatype, message.name),
        tuple(message.shape),
        message.data,
        _content_from_proto(message.content, message.name),
    )


def tensor_to_proto(tensor: Tensor) -> tensors_pb2.Tensor:
    """Return the message of a tensor."""
    return tensors_pb2.Tensor(
        name=tensor.name,
        datatype=tensors_pb2.DataType.ValueType(tensor.datatype),
        shape=tensor.shape,
        data=tensor.data,
        content=tensors_pb2.Content.ValueType(tensor.content),
    )


def _spec_from_proto(message: tensors_pb2.TensorSpec) -> TensorSpec:
    return TensorSpec(
        message.name,
        datatype_from_proto(message.datatype, message.name),
        tuple(message.shape),
        _content_from_proto(message.content, message.name),
    )


def _spec_to_proto(spec: TensorSpec) -> tensors_pb2.TensorSpec:
    return tensors_pb2.TensorSpec(
        name=spec.name,
        datatype=tensors_pb2.DataType.ValueType(spec.datatype),
        shape=spec.shape,
        content=tensors_pb2.Content.ValueType(spec.content),
    )


def signature_from_proto(message: tensors_pb2.Signature) -> Signature:
    """Return the signature of a message.

    Raises:
        InvalidInput: the signature is inconsistent.
    """
    return Signature(
        tuple(_spec_from_proto(spec) for spec in message.inputs),
        tuple(_spec_from_proto(spec) for spec in message.outputs),
        message.frame,
    )


def signature_to_proto(signature: Signature) -> tensors_pb2.Signature:
    """Return the message of a signature."""
    return tensors_pb2.Signature(
        inputs=[_spec_to_proto(spec) for spec in signature.inputs],
        outputs=[_spec_to_proto(spec) for spec in signature.outputs],
        frame=signature.frame,
    )


def difference_to_proto(difference: PackageDifference) -> model_server_pb2.PackageDifference:
    """Return the message of a package with another version."""
    return model_server_pb2.PackageDifference(**vars(difference))


def difference_from_proto(message: model_server_pb2.PackageDifference) -> PackageDifference:
    """Return the package with another version of a message."""
    return PackageDifference(message.package, message.deployed_version, message.installed_version)


def description_to_proto(
    description: ReplicaDescription,
) -> model_server_pb2.DescribeLoadedModelResponse:
    """Return the message of the description of a loaded model."""
    learned = description.learned_signature
    return model_server_pb2.DescribeLoadedModelResponse(
        learned_signature=None if learned is None else signature_to_proto(learned),
        package_differences=map(difference_to_proto, description.package_differences),
    )


def description_from_proto(
    message: model_server_pb2.DescribeLoadedModelResponse,
) -> ReplicaDescription:
    """Return the description of a loaded model.

    Raises:
        InvalidInput: the learned signature is invalid.
    """
    has_learned = message.HasField("learned_signature")
    return ReplicaDescription(
        signature_from_proto(message.learned_signature) if has_learned else None,
        tuple(map(difference_from_proto, message.package_differences)),
    )


def input_type_from_proto(number: int) -> InputType:
    """Return the input type of this number.

    Raises:
        InvalidInput: no input type has this number.
    """
    try:
        return InputType(number)
    except ValueError as error:
        known = ", ".join(input_type.name.lower() for input_type in InputType)
        raise InvalidInput(f"input_type must be one of {known}") from error


def duration(seconds: float) -> Duration:
    """Return the message of a duration.

    Raises:
        InvalidInput: the duration is longer than a year, or NaN.
    """
    if not abs(seconds) <= _MAX_DURATION_S:
        raise InvalidInput(f"a duration is at most a year, got {seconds} s")
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def seconds(name: str, message: Duration) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidInput: the duration is not greater than 0, or longer than a year; the message names
            the field.
    """
    value = message.seconds + message.nanos / 1e9
    if not 0 < value <= _MAX_DURATION_S:
        raise InvalidInput(f"{name} must be greater than 0 and at most a year, got {value} s")
    return value


def serving_from_proto(
    message: routing_pb2.ServingOptions, default_max_batch_size: int
) -> ServingOptions:
    """Return the options of a message.

    Raises:
        InvalidInput: an option is out of range; the message names it.
    """
    options = _unchecked_serving(message, default_max_batch_size)
    options.check()
    return options


def serving_changes(
    message: routing_pb2.ServingOptions,
    default_max_batch_size: int,
    paths: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Return the fields of `ServingOptions` that a message changes; the others stay.

    Args:
        message: The new values.
        default_max_batch_size: Default of the batch size.
        paths: Fields of the message to apply; an unset one returns to its default. If None, all set
            fields apply.

    Raises:
        InvalidInput: a path does not name a field, or the policy is unknown.
    """
    if paths is None:
        paths = [field.name for field, _ in message.ListFields()]
    options = _unchecked_serving(message, default_max_batch_size)
    known = {name: getattr(options, field) for name, field in _SERVING_FIELDS.items()}
    unknown = sorted(set(paths) - set(known))
    if unknown:
        raise InvalidInput(f"serving options have no field {shown(unknown[0])!r}")
    return {_SERVING_FIELDS[path]: known[path] for path in paths}


def serving_paths(names: Iterable[str]) -> list[str]:
    """Return the fields of the message for fields of `ServingOptions`."""
    return [path for path, name in _SERVING_FIELDS.items() if name in set(names)]


def _unchecked_serving(
    message: routing_pb2.ServingOptions, default_max_batch_size: int
) -> ServingOptions:
    defaults = ServingOptions()
    policy = defaults.policy
    if message.policy:
        number = message.policy
        if number not in routing_pb2.BatchingPolicy.values():
            raise InvalidInput(f"no batching policy has the number {number}")
        policy = PolicyName(routing_pb2.BatchingPolicy.Name(number)[_POLICY_PREFIX:].lower())

    def optional_s(name: str, default: float) -> float:
        if not message.HasField(cast(Any, name)):
            return default
        value: Duration = getattr(message, name)
        return value.seconds + value.nanos / 1e9

    has_delay = message.HasField("max_queue_delay")
    return ServingOptions(
        max_batch_size=message.max_batch_size or default_max_batch_size,
        policy=policy,
        max_queue_delay_s=optional_s("max_queue_delay", 0.0) if has_delay else None,
        preferred_batch_sizes=tuple(message.preferred_batch_sizes),
        max_queue_size=message.max_queue_size or None,
        priority_step_s=optional_s("priority_step", defaults.priority_step_s),
        cache_ttl_s=optional_s("cache_ttl", 0.0),
    )


def serving_to_proto(options: ServingOptions) -> routing_pb2.ServingOptions:
    """Return the message of options."""
    delay_s = options.max_queue_delay_s
    return routing_pb2.ServingOptions(
        max_batch_size=options.max_batch_size,
        policy=routing_pb2.BatchingPolicy.Value(f"BATCHING_POLICY_{options.policy.name}"),
        max_queue_delay=None if delay_s is None else duration(delay_s),
        preferred_batch_sizes=options.preferred_batch_sizes,
        max_queue_size=options.max_queue_size or 0,
        priority_step=duration(options.priority_step_s),
        cache_ttl=duration(options.cache_ttl_s) if options.cache_ttl_s else None,
    )


def latencies_from_proto(
    points: Iterable[routing_pb2.LatencyPoint],
) -> list[tuple[int, float]]:
    """Return rows and seconds; omit points with a zero."""
    return [(each.rows, each.latency_us / 1e6) for each in points if each.rows and each.latency_us]


def latencies_to_proto(points: Iterable[tuple[int, float]]) -> list[routing_pb2.LatencyPoint]:
    """Return the messages of rows and seconds."""
    return [
        routing_pb2.LatencyPoint(rows=rows, latency_us=max(1, min(2**32 - 1, round(1e6 * each_s))))
        for rows, each_s in points
    ]

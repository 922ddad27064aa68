"""Tensors and signatures as protobuf messages, and back."""

from google.protobuf.duration_pb2 import Duration

from skysail_common.errors import InvalidInput
from skysail_common.tensors import Content, DataType, InputType, Signature, Tensor, TensorSpec
from skysail_protos.v1 import tensors_pb2

_MAX_DURATION_S = 86_400 * 365.0


def datatype_from_proto(number: int, name: str) -> DataType:
    """Return the type of this number.

    Raises:
        InvalidInput: none has it; the message names the tensor.
    """
    try:
        return DataType(number)
    except ValueError as error:
        raise InvalidInput(f"tensor {name!r} has no known datatype ({number})") from error


def _content_from_proto(number: int, name: str) -> Content:
    try:
        return Content(number)
    except ValueError as error:
        raise InvalidInput(f"tensor {name!r} has no known content ({number})") from error


def tensor_from_proto(message: tensors_pb2.Tensor) -> Tensor:
    """Return a tensor as it came; its data may not fit its shape.

    Raises:
        InvalidInput: an unknown datatype.
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
        InvalidInput: it describes no possible model.
    """
    return Signature(
        tuple(_spec_from_proto(spec) for spec in message.inputs),
        tuple(_spec_from_proto(spec) for spec in message.outputs),
    )


def signature_to_proto(signature: Signature) -> tensors_pb2.Signature:
    """Return the message of a signature."""
    return tensors_pb2.Signature(
        inputs=[_spec_to_proto(spec) for spec in signature.inputs],
        outputs=[_spec_to_proto(spec) for spec in signature.outputs],
    )


def input_type_from_proto(number: int) -> InputType:
    """Return the input type of this number.

    Raises:
        InvalidInput: none has it.
    """
    try:
        return InputType(number)
    except ValueError as error:
        known = ", ".join(input_type.name.lower() for input_type in InputType)
        raise InvalidInput(f"input_type must be one of {known}") from error


def duration(seconds: float) -> Duration:
    """Return the message of a duration.

    Raises:
        InvalidInput: it is longer than a year, or no number.
    """
    if not abs(seconds) <= _MAX_DURATION_S:
        raise InvalidInput(f"a duration is at most a year, got {seconds} s")
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def seconds(name: str, message: Duration) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidInput: it is not greater than 0, or longer than a year; the message names it.
    """
    value = message.seconds + message.nanos / 1e9
    if not 0 < value <= _MAX_DURATION_S:
        raise InvalidInput(f"{name} must be greater than 0 and at most a year, got {value} s")
    return value

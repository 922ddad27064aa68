"""Parts of a ModelInferRequest: tensors, parameters and wanted outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

from skysail_common.errors import InvalidInput, shown
from skysail_common.tensor_conversions import packed
from skysail_common.tensors import DataType, Tensor, join_bytes_elements
from skysail_frontend.core.lazy_tensors import LazyTensor, PartTensor
from skysail_frontend.ingress.infer_parameters import check_tensor_parameters
from skysail_frontend.ingress.request_parser import MODEL_INFER, DetachedData, RequestParser
from skysail_frontend.ingress.targets import Target
from skysail_protos.inference import grpc_service_pb2 as pb

_CONTENTS_FIELD = {
    DataType.BOOL: "bool_contents",
    DataType.INT8: "int_contents",
    DataType.INT16: "int_contents",
    DataType.INT32: "int_contents",
    DataType.INT64: "int64_contents",
    DataType.UINT8: "uint_contents",
    DataType.UINT16: "uint_contents",
    DataType.UINT32: "uint_contents",
    DataType.UINT64: "uint64_contents",
    DataType.FP32: "fp32_contents",
    DataType.FP64: "fp64_contents",
    DataType.BYTES: "bytes_contents",
}
# Triton names each field by its widest type.
_FIELD_TYPE = {field: datatype.name for datatype, field in _CONTENTS_FIELD.items()}

_SERIALIZED = ("bool_contents", "fp32_contents", "fp64_contents")
"""Fields whose serialized elements equal the data of a tensor."""
_MAX_INTEGERS = 256 * 1024
"""Largest number of integers in typed fields; their conversion takes about 5 ms."""
_MAX_DIMENSIONS = 65
"""Largest number of dimensions that are read, one more than numpy allows."""
_MAX_NAMED = 1024
"""Largest number of parameters or outputs of a request."""

infer_request = RequestParser(
    pb.ModelInferRequest, MODEL_INFER, "send the elements in raw_input_contents"
)


def named_parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    """Return the parameters of a request by name.

    Raises:
        InvalidInput: the request has too many parameters.
    """
    if len(parameters) > _MAX_NAMED:
        raise InvalidInput(f"a request has {len(parameters)} parameters; send at most {_MAX_NAMED}")
    result: dict[str, Any] = {}
    for name, parameter in parameters.items():
        field = parameter.WhichOneof("parameter_choice")
        result[name] = getattr(parameter, field) if field else ""
    return result


def input_tensors(
    request: pb.ModelInferRequest, detached: DetachedData | None, target: Target
) -> list[Tensor | LazyTensor | PartTensor]:
    """Return the inputs of a request, raw or typed.

    At most one input too many is read, because a later check refuses one of them.

    Raises:
        InvalidInput: a datatype is unknown, data are missing or present twice, or typed fields hold
            too many integers.
    """
    if target.version is None:
        return []
    model, raw = shown(request.model_name), request.raw_input_contents
    if raw and len(raw) > len(request.inputs):
        raise InvalidInput(
            f"expected {len(request.inputs)} raw_input_contents for model '{model}', got {len(raw)}"
        )
    tensors: list[Tensor | LazyTensor | PartTensor] = []
    for index, message in enumerate(request.inputs[: len(target.version.signature.inputs) + 1]):
        name = message.name
        if message.parameters:
            check_tensor_parameters("input", name, message.parameters)
        datatype = DataType.named(message.datatype)
        shape = tuple(message.shape[:_MAX_DIMENSIONS])
        if not raw:
            tensors.append(_typed(model, message, detached, datatype, shape))
            continue
        if index >= len(raw):
            raise InvalidInput(
                f"unable to find data for input tensor '{shown(name)}' for model '{model}' in "
                "request."
            )
        if message.HasField("contents"):
            raise InvalidInput(
                "contents field must not be specified when using raw_input_contents for "
                f"'{shown(name)}' for model '{model}'"
            )
        if detached is None:
            tensors.append(Tensor(name, datatype, shape, raw[index]))
        else:
            tensors.append(PartTensor(name, datatype, shape, detached.data(raw[index])))
    if not raw:
        _check_integers(tensors)
    return tensors


def _check_integers(tensors: Sequence[Tensor | LazyTensor | PartTensor]) -> None:
    num_integers = sum(
        tensor.num_elements
        for tensor in tensors
        if isinstance(tensor, LazyTensor) and tensor.datatype.dtype.kind in "iu"
    )
    if num_integers > _MAX_INTEGERS:
        raise InvalidInput(
            f"a request has {num_integers} integers in typed contents; send more than "
            f"{_MAX_INTEGERS} in raw_input_contents"
        )


def _typed(
    model: str,
    message: pb.ModelInferRequest.InferInputTensor,
    detached: DetachedData | None,
    datatype: DataType,
    shape: tuple[int, ...],
) -> LazyTensor:
    """Return an input with elements in the typed field of its datatype."""
    name, contents = shown(message.name), message.contents
    expected = _CONTENTS_FIELD.get(datatype)
    for field, _ in contents.ListFields():
        if field.name != expected:
            raise InvalidInput(
                f"unexpected explicit tensor data for input tensor '{name}' for model '{model}' of "
                f"type '{_FIELD_TYPE[field.name]}', expected datatype '{datatype.name}'"
            )
    if expected is None:
        raise InvalidInput(f"input '{name}' of datatype '{datatype.name}' needs raw_input_contents")
    elements = getattr(contents, expected)

    def convert() -> bytes:
        if expected in _SERIALIZED:
            contents.DiscardUnknownFields()
            message_bytes = contents.SerializeToString()
            return message_bytes[len(message_bytes) - len(elements) * datatype.element_bytes :]
        if datatype is DataType.BYTES:
            if detached is None:
                return join_bytes_elements(elements)
            return join_bytes_elements(map(detached.data, elements))
        return packed(name, elements[:], datatype)

    return LazyTensor(message.name, datatype, shape, len(elements), convert)


def input_order(request: pb.ModelInferRequest, target: Target) -> list[int]:
    """Return, for each input of the signature, its index among the inputs of a valid request."""
    assert target.version is not None
    specs = target.version.signature.inputs
    if len(specs) == 1:
        # A sole input needs no name.
        return [0]
    places = {message.name: place for place, message in enumerate(request.inputs)}
    return [places[spec.name] for spec in specs]


def wanted_outputs(request: pb.ModelInferRequest, target: Target) -> frozenset[str]:
    """Return the names of the wanted outputs; an empty set means all.

    Raises:
        InvalidInput: the request names too many outputs, or an unknown one.
        Unsupported: an output uses shared memory or classification.
    """
    if len(request.outputs) > _MAX_NAMED:
        raise InvalidInput(
            f"a request names {len(request.outputs)} outputs; name at most {_MAX_NAMED}"
        )
    wanted: set[str] = set()
    for output in request.outputs:
        if output.parameters:
            check_tensor_parameters("output", output.name, output.parameters)
        wanted.add(output.name)
    if wanted and target.version is not None:
        known = {spec.name for spec in target.version.signature.outputs}
        for name in wanted - known:
            raise InvalidInput(
                f"unexpected inference output '{shown(name)}' for model "
                f"'{shown(request.model_name)}'; it gives {', '.join(sorted(known))}"
            )
    return frozenset(wanted)

"""Inputs in the JSON of an inference request, checked against the model before conversion."""

from collections.abc import Mapping
from math import prod
from typing import Any

from skysail_common.errors import InvalidInput
from skysail_common.query_params import MAX_PARAMS_BYTES
from skysail_common.tensors import DataType, Tensor, TensorSpec
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.routes import ServedVersion
from skysail_frontend.core.validation import names_of
from skysail_frontend.ingress.binary_tensors import BinaryBody
from skysail_frontend.ingress.http_bodies import BodyTooLarge
from skysail_frontend.ingress.infer_parameters import check_tensor_parameters
from skysail_frontend.ingress.long_json import (
    LONG_BYTES,
    LongArray,
    parse_json,
    tensor_of_json,
)
from skysail_frontend.ingress.targets import Target
from skysail_frontend.ingress.time_slice import TimeSlice

_ELEMENT_CHARS = 32
"""Largest number of characters of an element, including separators and indentation."""


def json_member(parent: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return a member, or a default for an absent or null member."""
    value = parent.get(name)
    return default if value is None else value


def json_object(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a member that is an object; an empty object for an absent or null member.

    Raises:
        InvalidInput: the member is not an object.
    """
    value = json_member(parent, name, {})
    if not isinstance(value, dict):
        raise InvalidInput(f"'{name}' must be a JSON object")
    return value


def max_json_bytes(version: ServedVersion | None, max_rows: int) -> float:
    """Return the length of the longest JSON text that a query of a version can need."""
    elements = 0
    for spec in version.signature.inputs if version else ():
        if spec.datatype is DataType.BYTES or spec.variable_axes:
            return float("inf")
        elements += prod(spec.shape[1:])
    if version is None:
        return float("inf")
    params = MAX_PARAMS_BYTES if version.takes_params else 0
    return LONG_BYTES + params + max_rows * elements * _ELEMENT_CHARS


class InferInputs:
    """The inputs of one request in JSON."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        target: Target,
        body: BinaryBody,
        max_bytes: int,
        time_slice: TimeSlice,
    ) -> None:
        self._version = target.version
        specs = self._version.signature.inputs if self._version else ()
        self._specs = {spec.name: spec for spec in specs}
        self._max_rows = dispatcher.max_query_rows(self._version) if self._version else 1
        self._body = body
        self._max_bytes = max_bytes
        self._time_slice = time_slice

    async def parse(self) -> Any:
        """Return the JSON of the request.

        Raises:
            BodyTooLarge: the text is longer than any query of the model.
            InvalidInput: the text is not JSON.
        """
        length = len(self._body.json)
        if length > LONG_BYTES:
            longest = max_json_bytes(self._version, self._max_rows)
            if length > longest:
                raise BodyTooLarge(
                    f"the body has {length} bytes of JSON; the longest query of "
                    f"{self._max_rows} rows needs at most {longest}"
                )
        return await parse_json(self._body.json, self._time_slice)

    async def tensors(self, value: Mapping[str, Any]) -> list[Tensor]:
        """Return the tensors of a request.

        Raises:
            InvalidInput: the tensors violate the protocol or the signature.
        """
        inputs = value.get("inputs")
        if not isinstance(inputs, (list, LongArray)):
            raise InvalidInput("'inputs' must be a JSON array of tensors")
        if self._version is None:
            # The default output answers such a query, without its inputs.
            return []
        # A single surplus input is read, so that the later check can name it.
        most = len(self._specs) + 1
        if isinstance(inputs, LongArray):
            inputs = await inputs.first(most + 1, self._time_slice)
        if len(inputs) > most:
            model = self._version.name.model_name
            raise InvalidInput(
                f"the request has more than {most} inputs; model '{model}' takes "
                f"{names_of(list(self._specs.values()))}"
            )
        tensors: list[Tensor] = []
        for each in inputs:
            tensors.append(await self._tensor(each))
            await self._time_slice.yield_if_over()
        self._body.check_end()
        return tensors

    async def _tensor(self, value: Any) -> Tensor:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise InvalidInput("each of 'inputs' must be a JSON object with the member 'name'")
        name = value["name"]
        parameters = json_object(value, "parameters")
        check_tensor_parameters("input", name, parameters)
        is_binary = "binary_data_size" in parameters
        for member in ("datatype", "shape", *(() if is_binary else ("data",))):
            if member not in value:
                raise InvalidInput(f"input '{name}' has no member '{member}'")
        shape = value["shape"]
        is_shape = isinstance(shape, list) and all(
            isinstance(size, int) and not isinstance(size, bool) for size in shape
        )
        if not is_shape or not isinstance(value["datatype"], str):
            raise InvalidInput(f"input '{name}' needs a shape of integers and a datatype")
        datatype = DataType.named(value["datatype"])
        # A later check compares the number of elements with the shape.
        if is_binary:
            if value.get("data") is not None:
                raise InvalidInput(f"input '{name}' has both 'data' and a 'binary_data_size'")
            data = self._body.take(name, parameters["binary_data_size"])
        else:
            data = await self._json_data(name, value["data"], datatype, shape)
        return Tensor(name, datatype, tuple(shape), data)

    async def _json_data(
        self, name: str, value: Any, datatype: DataType, shape: list[int]
    ) -> bytes:
        if datatype is DataType.BF16:
            raise InvalidInput(f"input '{name}' of datatype BF16 cannot be sent as JSON")
        if isinstance(value, LongArray) and not self._fits(name, datatype, shape):
            # A later check refuses the input, and does not need its elements.
            return b""
        most = prod(shape) if isinstance(value, LongArray) else 0
        if most * datatype.element_bytes > self._max_bytes:
            raise BodyTooLarge(
                f"input '{name}' takes {most * datatype.element_bytes} bytes; the limit is "
                f"{self._max_bytes}"
            )
        return (await tensor_of_json(name, value, datatype, most, self._time_slice)).data

    def _fits(self, name: str, datatype: DataType, shape: list[int]) -> bool:
        spec = self._specs.get(name)
        return (
            spec is not None
            and spec.datatype is datatype
            and is_shape_of(spec, shape)
            and shape[0] <= self._max_rows
        )


def is_shape_of(spec: TensorSpec, shape: list[int]) -> bool:
    """Return whether a tensor of a shape can be an input."""
    return len(shape) == len(spec.shape) and all(
        size > 0 and want in (-1, size) for want, size in zip(spec.shape, shape, strict=True)
    )

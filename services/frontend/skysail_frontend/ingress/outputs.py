"""Outputs of a prediction as tensors, from the model or from the default output."""

from typing import Any

import numpy as np

from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.json_or_text import element_of
from skysail_common.model_functions import OUTPUT_NAME, as_array
from skysail_common.tensor_conversions import cast
from skysail_common.tensors import Content, DataType, Tensor, TensorSpec, from_numpy
from skysail_frontend.core.query import Prediction, Query
from skysail_frontend.core.routes import ServedVersion


def output_tensors(query: Query, prediction: Prediction) -> list[Tensor]:
    """Return the outputs of an answered query."""
    if prediction.is_default:
        assert query.application is not None
        return default_tensors(query.application.default_output, query.rows, query.version)
    assert query.version is not None
    specs = query.version.signature.outputs
    return [
        Tensor(spec.name, spec.datatype, shape, data, spec.content)
        for spec, shape, data in zip(specs, prediction.shapes, prediction.outputs, strict=True)
    ]


def default_tensors(value: Any, rows: int, version: ServedVersion | None) -> list[Tensor]:
    """Return the default output as tensors, repeated for each row.

    The keys of a dictionary are the names of the outputs. A value gets the datatype of the model's
    output if it fits, else its own. A value that is not an array becomes JSON text.
    """
    specs = {spec.name: spec for spec in version.signature.outputs} if version else {}
    if not isinstance(value, dict):
        value = {next(iter(specs), OUTPUT_NAME): value}
    return [_default_tensor(str(name), each, rows, specs.get(name)) for name, each in value.items()]


def _default_tensor(name: str, value: Any, rows: int, spec: TensorSpec | None) -> Tensor:
    try:
        tensor = from_numpy(name, as_array(name, [value] * rows))
    except (ModelFailed, InvalidInput):
        return _text_tensor(name, value, rows)
    if spec is None:
        return tensor
    if spec.content is Content.JSON_OR_TEXT:
        return _text_tensor(name, value, rows)
    if tensor.datatype is spec.datatype:
        return tensor
    if spec.datatype is DataType.BYTES:
        return _text_tensor(name, value, rows)
    try:
        return cast(tensor, spec.datatype)
    except InvalidInput:
        return tensor


def _text_tensor(name: str, value: Any, rows: int) -> Tensor:
    # JSON may contain half a surrogate pair, which UTF-8 cannot encode.
    text = element_of(value).encode(errors="replace").decode()
    return from_numpy(name, np.array([text] * rows, dtype=object), Content.JSON_OR_TEXT)

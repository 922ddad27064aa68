"""The binary tensor data extension of /v2: tensors as bytes after the JSON, in its order.

    Inference-Header-Content-Length: 62
    {"inputs": [{…, "parameters": {"binary_data_size": 24}}]}<24 bytes>

Source: Triton, "Binary Tensor Data Extension".
"""

from typing import Any

from skysail_common.errors import InvalidInput
from skysail_common.tensors import DataType, Tensor, join_bytes_elements
from skysail_frontend.core.routes import ServedVersion

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
JSON_LENGTH_KEY = JSON_LENGTH_HEADER.lower().encode()


class BinaryBody:
    """The body of a request: its JSON, and the binary data after it."""

    def __init__(self, content: bytes, json_length: bytes | None) -> None:
        """Split the body.

        Args:
            content: The whole body.
            json_length: Value of the header; None if the whole body is JSON.

        Raises:
            InvalidInput: the value is not a length, or exceeds the body.
        """
        self.content = content
        self._position = len(content) if json_length is None else _length(json_length, content)
        self.json = memoryview(content)[: self._position]

    @property
    def is_raw(self) -> bool:
        """True if the body has no JSON, so that all of it is the data of the model's only input."""
        return self._position == 0 and bool(self.content)

    def take(self, name: str, size: Any) -> bytes:
        """Return the data of the next input.

        Raises:
            InvalidInput: the size is not a size, or exceeds the rest of the body.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InvalidInput(f"input '{name}' needs a 'binary_data_size' of 0 or more bytes")
        end = self._position + size
        if end > len(self.content):
            raise InvalidInput(
                f"input '{name}' has a 'binary_data_size' of {size}, but the body has only "
                f"{len(self.content) - self._position} bytes left for it; the header "
                f"{JSON_LENGTH_HEADER} gives the length of the JSON"
            )
        begin, self._position = self._position, end
        return self.content[begin:end]

    def check_end(self) -> None:
        """Check that the inputs took the whole body.

        Raises:
            InvalidInput: bytes are left.
        """
        left = len(self.content) - self._position
        if left:
            raise InvalidInput(f"the body has {left} bytes more than its inputs take")


def _length(text: bytes, content: bytes) -> int:
    # A value with too many digits is refused here, because int() would raise another error.
    if not (text.isdigit() and len(text) < 20 and int(text) <= len(content)):
        raise InvalidInput(
            f"{JSON_LENGTH_HEADER} must be the length of the JSON, at most the {len(content)} "
            f"bytes of the body, got {text[:40].decode('latin-1')!r}"
        )
    return int(text)


def raw_tensor(version: ServedVersion, content: bytes) -> Tensor:
    """Return the only input of a model, with one row, from a body without JSON.

    An element of BYTES has no length prefix.

    Raises:
        InvalidInput: the model has more inputs, or the data do not determine the shape.
    """
    model, specs = version.name.model_name, version.signature.inputs
    if len(specs) != 1 or len(specs[0].variable_axes) > 1:
        raise InvalidInput(
            f"model '{model}' cannot take a body without JSON: that needs one input with at most one "
            "variable size; send JSON"
        )
    (spec,) = specs
    if spec.datatype is DataType.BYTES:
        shape = tuple(1 if size == -1 else size for size in spec.shape)
        return Tensor(spec.name, spec.datatype, shape, join_bytes_elements([content]))
    row_bytes = spec.datatype.element_bytes
    for size in spec.shape[1:]:
        row_bytes *= 1 if size == -1 else size
    shape = tuple(len(content) // row_bytes if size == -1 else size for size in spec.shape[1:])
    return Tensor(spec.name, spec.datatype, (1, *shape), content)

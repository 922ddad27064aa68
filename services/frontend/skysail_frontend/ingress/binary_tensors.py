"""The binary tensor data extension of /v2: tensors as bytes behind the JSON, in its order.

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
    """The body of a request: its JSON, and what is behind it."""

    def __init__(self, content: bytes, json_length: bytes | None) -> None:
        """Parts the body.

        Args:
            content: All of it.
            json_length: Value of the header; all of the body is JSON if None.

        Raises:
            InvalidInput: that is no length, or a longer one than the body's.
        """
        self.content = content
        self._position = len(content) if json_length is None else _length(json_length, content)
        self.json = memoryview(content)[: self._position]

    @property
    def is_raw(self) -> bool:
        """True where there is no JSON: all of it is the data of the model's only input."""
        return self._position == 0 and bool(self.content)

    def take(self, name: str, size: Any) -> bytes:
        """Return the data of the next input.

        Raises:
            InvalidInput: the size is none, or there is not so much left.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InvalidInput(f"input '{name}' needs a 'binary_data_size' of 0 or more bytes")
        end = self._position + size
        if end > len(self.content):
            raise InvalidInput(
                f"input '{name}' has a 'binary_data_size' of {size}, but the body has only "
                f"{len(self.content) - self._position} bytes left for it; the header "
                f"{JSON_LENGTH_HEADER} tells where the JSON ends"
            )
        begin, self._position = self._position, end
        return self.content[begin:end]

    def check_end(self) -> None:
        """Return if all of the body was taken.

        Raises:
            InvalidInput: something is left.
        """
        left = len(self.content) - self._position
        if left:
            raise InvalidInput(f"the body has {left} bytes more than its inputs take")


def _length(text: bytes, content: bytes) -> int:
    # More digits than any body has bytes are no number, which int() would refuse in another way.
    if not (text.isdigit() and len(text) < 20 and int(text) <= len(content)):
        raise InvalidInput(
            f"{JSON_LENGTH_HEADER} must be the length of the JSON, at most the {len(content)} "
            f"bytes of the body, got {text[:40].decode('latin-1')!r}"
        )
    return int(text)


def raw_tensor(version: ServedVersion, content: bytes) -> Tensor:
    """Return the only input of a model, with one row, from its bare data.

    An element of BYTES comes without its length.

    Raises:
        InvalidInput: the model has more inputs, or the data do not tell the shape.
    """
    model, specs = version.name.model_name, version.signature.inputs
    if len(specs) != 1 or len(specs[0].variable_axes) > 1:
        raise InvalidInput(
            f"model '{model}' cannot take a body without JSON: it needs one input with at most one "
            "size that varies"
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

"""Makes an artifact of a function: pickles it with what it needs, and learns its signature."""

import hashlib
import inspect
import io
import platform
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysail.local_modules import local_modules, needed_packages
from skysail.pickling import pickle_function
from skysail_common import __version__
from skysail_common.artifacts import (
    MANIFEST_FILE,
    MODEL_FILE,
    MODULES_DIRECTORY,
    Manifest,
    SignatureRecord,
    example_file,
    to_json,
)
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.functions import (
    LIST_OUTPUT,
    Calling,
    Function,
    as_array,
    call_function,
    checked_outputs,
    named_outputs,
)
from skysail_common.tensors import (
    CLIPPER_SPECS,
    Array,
    Content,
    DataType,
    InputType,
    Signature,
    Tensor,
    TensorSpec,
    from_numpy,
)

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Artifact:
    """A model ready to be uploaded."""

    content: bytes
    manifest: Manifest

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, as lower-case hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.manifest.signature.signature()


def build_artifact(
    function: Function,
    *,
    example: Any = None,
    input_type: str | None = None,
    requirements: Sequence[str] = (),
) -> Artifact:
    """Return the artifact of a function.

    Args:
        function: Takes arrays [batch, …] and returns an array [batch, …], a tuple of them, or a
            dictionary of them by name. With `input_type` it takes a list of inputs and returns a
            list with an output for each.
        example: Inputs that the function can answer: an array [batch, …] (or what numpy makes
            one of), or a dictionary of such by name. The function is run on it to learn its
            signature, and each replica answers it before it is ready.
        input_type: `integers`, `floats`, `doubles`, `bytes` or `strings`, in place of an example.
        requirements: What pip must install where the function runs.

    Raises:
        InvalidInput: neither or both of `example` and `input_type` are given, the example is no
            array, or something in the function cannot be pickled; the message names it.
        ModelFailed: the function fails on the example, or returns something that is no array.
    """
    if not callable(function):
        hint = "; did you mean its .predict?" if hasattr(function, "predict") else ""
        raise InvalidInput(f"{type(function).__name__} is not a function or another callable{hint}")
    if (example is None) == (input_type is None):
        raise InvalidInput("give either an example of the input or an input_type")
    if input_type is not None:
        calling, signature, tensors = _of_input_type(input_type)
    else:
        calling, signature, tensors = _of_example(function, example)
    pickled = pickle_function(function)
    modules = local_modules(pickled.modules)
    manifest = Manifest(
        skysail_version=__version__,
        python_version=platform.python_version(),
        packages=needed_packages(pickled.modules, modules),
        requirements=tuple(requirements),
        signature=SignatureRecord.of(signature),
        calling=calling,
        example_shapes=tuple(tensor.shape for tensor in tensors),
    )
    return Artifact(_zip(manifest, pickled.content, modules, tensors), manifest)


def _of_input_type(name: str) -> tuple[Calling, Signature, list[Tensor]]:
    spec = CLIPPER_SPECS.get(InputType.named(name))
    if spec is None:
        raise InvalidInput("for tensors give an example of the input instead of an input_type")
    return "list", Signature((spec,), (LIST_OUTPUT,)), []


def _of_example(function: Function, example: Any) -> tuple[Calling, Signature, list[Tensor]]:
    calling, arrays = _example_arrays(function, example)
    tensors = [from_numpy(name, array) for name, array in arrays.items()]
    num_rows = {tensor.shape[0] for tensor in tensors}
    if len(num_rows) != 1:
        raise InvalidInput(f"the inputs of the example differ in their rows: {sorted(num_rows)}")
    inputs = tuple(
        TensorSpec(tensor.name, tensor.datatype, (-1, *tensor.shape[1:]), tensor.content)
        for tensor in tensors
    )
    try:
        # Copies, because functions may write to their inputs.
        copies = {name: np.array(array) for name, array in arrays.items()}
        result = call_function(function, calling, copies)
    except Exception as error:
        text = f"the function failed on the example: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            text += (
                "; the function runs on this machine to learn its signature: install "
                f"{error.name} here too, or give an input_type in place of the example"
            )
        raise ModelFailed(text) from error
    outputs = named_outputs(result, calling)
    if not outputs:
        raise ModelFailed(f"the function returned an empty {type(result).__name__}")
    specs = tuple(_output_spec(name, array) for name, array in outputs.items())
    checked_outputs(outputs, specs, num_rows.pop())
    return calling, Signature(inputs, specs), tensors


def _example_arrays(function: Function, example: Any) -> tuple[Calling, dict[str, Array]]:
    if isinstance(example, Mapping):
        arrays = {str(name): _example_array(str(name), value) for name, value in example.items()}
        if not arrays:
            raise InvalidInput("the example has no inputs")
        calling: Calling = "keywords" if _takes_keywords(function, arrays) else "mapping"
        return calling, arrays
    name = _first_parameter(function)
    return "array", {name: _example_array(name, example)}


def _example_array(name: str, value: Any) -> Array:
    try:
        array = as_array(name, value)
    except ModelFailed as error:
        raise InvalidInput(f"the example is not usable: {error.message}") from error
    if array.ndim == 0 or array.shape[0] == 0:
        raise InvalidInput(
            f"the example of {name!r} needs a batch axis with at least one row; for a single input "
            "give [input]"
        )
    if 0 in array.shape:
        raise InvalidInput(f"the example of {name!r} has an axis of size 0: {list(array.shape)}")
    return array


def _takes_keywords(function: Function, names: Iterable[str]) -> bool:
    try:
        inspect.signature(function).bind(**dict.fromkeys(names))
    except (TypeError, ValueError):
        return False
    return True


def _first_parameter(function: Function) -> str:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return "input"
    if parameters and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        return parameters[0].name
    return "input"


def _output_spec(name: str, array: Array) -> TensorSpec:
    if array.ndim == 0:
        raise ModelFailed("the function returned a single value; it must return one for each row")
    if 0 in array.shape[1:]:
        raise ModelFailed(f"the function returned an axis of size 0 in output {name!r}")
    if array.dtype.kind == "O":
        is_text = all(isinstance(element, str) for element in array.ravel().tolist())
        content = Content.TEXT if is_text else Content.BINARY
        return TensorSpec(name, DataType.BYTES, (-1, *array.shape[1:]), content)
    return TensorSpec(name, DataType.of(array.dtype), (-1, *array.shape[1:]))


def _zip(
    manifest: Manifest, pickled: bytes, modules: Mapping[str, bytes], example: Sequence[Tensor]
) -> bytes:
    # Fixed times and a fixed order: the same content has the same SHA-256.
    members = {
        MANIFEST_FILE: to_json(manifest.model_dump(mode="json")).encode(),
        MODEL_FILE: pickled,
        **{f"{MODULES_DIRECTORY}{path}": modules[path] for path in sorted(modules)},
        **{example_file(index): tensor.data for index, tensor in enumerate(example)},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_EPOCH), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()

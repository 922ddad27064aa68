"""Makes an artifact of a function: pickles it with what it needs, and learns its signature."""

import hashlib
import importlib.metadata
import inspect
import io
import keyword
import pickletools
import platform
import re
import site
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
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

_MAX_MODULE_BYTES = 64 * 1024 * 1024
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
        raise InvalidInput(f"{type(function).__name__} is not a function or another callable")
    if (example is None) == (input_type is None):
        raise InvalidInput("give either an example of the input or an input_type")
    if input_type is not None:
        calling, signature, tensors = _of_input_type(input_type)
    else:
        calling, signature, tensors = _of_example(function, example)
    pickled = _pickle(function)
    modules = _local_modules(pickled)
    manifest = Manifest(
        skysail_version=__version__,
        python_version=platform.python_version(),
        packages=_packages(pickled, modules),
        requirements=tuple(requirements),
        signature=SignatureRecord.of(signature),
        calling=calling,
        example_shapes=tuple(tensor.shape for tensor in tensors),
    )
    return Artifact(_zip(manifest, pickled, modules, tensors), manifest)


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
        raise ModelFailed(
            f"the function failed on the example: {type(error).__name__}: {error}"
        ) from error
    outputs = named_outputs(result, calling)
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
    if array.dtype.kind == "O":
        is_text = all(isinstance(element, str) for element in array.ravel().tolist())
        content = Content.TEXT if is_text else Content.BINARY
        return TensorSpec(name, DataType.BYTES, (-1, *array.shape[1:]), content)
    return TensorSpec(name, DataType.of(array.dtype), (-1, *array.shape[1:]))


def _pickle(function: Function) -> bytes:
    try:
        return bytes(cloudpickle.dumps(function))
    except Exception as error:
        culprit = _culprit(function)
        where = f"{culprit}: " if culprit else ""
        raise InvalidInput(
            f"the function cannot be pickled: {where}{type(error).__name__}: {error}"
        ) from error


def _culprit(value: Any, path: str = "", depth: int = 6) -> str:
    """Return the innermost part of `value` that cannot be pickled, such as `model.lock`."""
    if depth == 0 or _can_pickle(value):
        return ""
    for name, part in _parts(value):
        found = _culprit(part, f"{path}{name}", depth - 1)
        if found:
            return found
    return f"{path.lstrip('.') or 'the function'} (a {type(value).__name__})"


def _can_pickle(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    function = getattr(value, "__func__", value)
    code = getattr(function, "__code__", None)
    if code is not None:
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            yield f".{name}", cell.cell_contents
        for name in _global_names(code):
            if name in function.__globals__:
                yield f".{name}", function.__globals__[name]
        for index, default in enumerate(function.__defaults__ or ()):
            yield f".default {index}", default
        if hasattr(value, "__self__"):
            yield ".self", value.__self__
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"[{key!r}]", part
    elif isinstance(value, (list, tuple, set)):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif not isinstance(value, (ModuleType, type)):
        for name, part in getattr(value, "__dict__", {}).items():
            yield f".{name}", part


def _global_names(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _global_names(constant)


def _strings(pickled: bytes) -> set[str]:
    """Return every text in a pickle: module names are among them, also those of its code."""
    found: set[str] = set()
    for _, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str):
            found.add(argument)
            # The opcode GLOBAL holds module and name, parted by a space.
            found.update(argument.split(" ", 1))
    return found


def _local_modules(pickled: bytes) -> dict[str, bytes]:
    """Return the sources of the user's own modules that a pickle refers to, by path.

    Those are loaded modules outside the standard library and the installed packages; with each
    come the ones that it imports itself.
    """
    sources: dict[str, bytes] = {}
    pending = [name for name in sorted(_strings(pickled)) if name in sys.modules]
    seen: set[str] = set()
    while pending:
        top = pending.pop().partition(".")[0]
        if top in seen:
            continue
        seen.add(top)
        for path, source in _sources_of(top):
            sources[path] = source
            pending.extend(_imported_names(source))
    if sum(map(len, sources.values())) > _MAX_MODULE_BYTES:
        raise InvalidInput(
            "the modules that the function needs are larger than 64 MiB; install them as a package"
        )
    return sources


def _sources_of(top: str) -> Iterator[tuple[str, bytes]]:
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    if module is None or top == "__main__":
        return
    if file is None:
        # A package without __init__.py has only directories.
        directories = [Path(path) for path in getattr(module, "__path__", ())]
    elif Path(file).name == "__init__.py":
        directories = [Path(file).parent]
    elif Path(file).suffix == ".py" and _is_local(Path(file)):
        yield f"{top}.py", Path(file).read_bytes()
        return
    else:
        return
    for directory in directories:
        if _is_local(directory):
            for path in sorted(directory.rglob("*.py")):
                relative = path.relative_to(directory)
                yield f"{top}/{relative.as_posix()}", path.read_bytes()


def _is_local(path: Path) -> bool:
    path = path.resolve()
    installed = {
        *(Path(part).resolve() for part in site.getsitepackages()),
        Path(site.getusersitepackages()).resolve(),
        *(
            Path(sysconfig.get_path(name)).resolve()
            for name in ("stdlib", "platstdlib", "purelib", "platlib")
        ),
        # Skysail itself is where replicas run, however it was installed here.
        Path(__file__).resolve().parents[1],
        *(Path(sys.modules["skysail_common"].__path__[0]).resolve().parents[:1]),
    }
    return not any(path == base or base in path.parents for base in installed)


_IMPORT = re.compile(rb"^\s*(?:from|import)\s+([A-Za-z_][\w]*)", re.MULTILINE)


def _imported_names(source: bytes) -> list[str]:
    names = {match.decode() for match in _IMPORT.findall(source)}
    return sorted(name for name in names if name in sys.modules and not keyword.iskeyword(name))


def _packages(pickled: bytes, modules: Mapping[str, bytes]) -> dict[str, str]:
    """Return the installed distributions that a pickle and its modules refer to."""
    tops = {
        text.partition(".")[0]
        for text in _strings(pickled)
        if text.partition(".")[0] in sys.modules
    }
    for source in modules.values():
        tops.update(_imported_names(source))
    by_module = importlib.metadata.packages_distributions()
    names = {name for top in tops for name in by_module.get(top, ())} - {"skysail"}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


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

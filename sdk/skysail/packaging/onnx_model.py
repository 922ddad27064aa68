"""The packager of ONNX models, in memory or in a file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions, type_modules
from skysail.packaging.onnx_files import external_files
from skysail.packaging.pins import has_distribution, is_installed, pinned
from skysail.packaging.saved_files import path_of, temporary_directory
from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import ModelContext
from skysail_common.loaders.onnx_model import OnnxLoader

_FILE = "model.onnx"
_GPU = "onnxruntime-gpu"

# protobuf cannot write a message of 2 GiB.
_MAX_MESSAGE_BYTES = 1 << 30


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how an ONNX model travels: its file, with the files of its weights.

    Raises:
        InvalidInput: the file is damaged or lacks a file of weights, or batches have a fixed size.
    """
    path = path_of(source)
    if path is not None and (path.suffix != ".onnx" or not path.is_file()):
        return None
    if path is None and not _is_model(source):
        return None
    if options.method:
        raise InvalidInput(
            f"cannot deploy the ONNX model by method={options.method!r}: a model has one function; "
            "leave method out"
        )
    if path is not None:
        return _packaged(path)
    with temporary_directory() as directory:
        saved = Path(directory.name) / _FILE
        _save(source, saved)
        return replace(_packaged(saved), temporary=(directory,))


def _packaged(path: Path) -> Packaged:
    # The runtime for GPUs replaces the other one.
    runtime = _GPU if has_distribution(_GPU) else "onnxruntime"
    packaged = Packaged(
        open=None,
        loader="onnx",
        options={"file": path.name},
        data={path.name: path, **external_files(path)},
        requirements=pinned(runtime),
    )
    if not is_installed("onnxruntime"):
        return packaged
    loader = OnnxLoader(packaged.options)
    try:
        function = loader.load(ModelContext(data_directory=path.parent.absolute()))
    except InvalidInput:
        raise
    # onnxruntime has its own errors, without a common class.
    except Exception as error:
        raise InvalidInput(
            f"cannot deploy {path}: {error}; check the model by onnx.checker"
        ) from error
    return replace(packaged, open=lambda context: function, signature=loader.signature())


def _is_model(source: Any) -> bool:
    return "onnx" in type_modules(source) and type(source).__name__ == "ModelProto"


def _save(model: Any, path: Path) -> None:
    import onnx

    if model.ByteSize() < _MAX_MESSAGE_BYTES:
        path.write_bytes(model.SerializeToString(deterministic=True))
    else:
        # The function moves the weights out of the model that it gets.
        copy = type(model)()
        copy.CopyFrom(model)
        onnx.save(copy, str(path), save_as_external_data=True, location=f"{path.name}.data")

"""Models as their libraries know them, for functions that take the model as their first argument."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from skysail_common.errors import InvalidInput


def open_native_model(kind: str, path: Path, class_name: str = "") -> tuple[Any, ...]:
    """Return the first arguments of a function: the model, for Spark after its session.

    Args:
        kind: `keras`, `onnx`, `pyspark` or `tensorflow`.
        path: File or folder in which the library saved the model.
        class_name: Full name of the class of a Spark model.

    Raises:
        InvalidInput: the kind is unknown.
        ImportError: the library is not installed.
    """
    opening = _OPENINGS.get(kind)
    if opening is None:
        known = ", ".join(_OPENINGS)
        raise InvalidInput(f"cannot open a model of kind {kind!r}; known are {known}")
    return opening(path, class_name)


def _open_keras(path: Path, class_name: str) -> tuple[Any, ...]:
    return (import_module("keras").models.load_model(str(path)),)


def _open_onnx(path: Path, class_name: str) -> tuple[Any, ...]:
    runtime = import_module("onnxruntime")
    return (runtime.InferenceSession(str(path), providers=runtime.get_available_providers()),)


def _open_pyspark(path: Path, class_name: str) -> tuple[Any, ...]:
    session = import_module("pyspark.sql").SparkSession.builder.getOrCreate()
    module, _, name = class_name.rpartition(".")
    model_class = getattr(import_module(module), name)
    # Models of the older package pyspark.mllib are loaded by a context.
    if ".mllib." in class_name:
        return session, model_class.load(session.sparkContext, str(path))
    return session, model_class.load(str(path))


def _open_tensorflow(path: Path, class_name: str) -> tuple[Any, ...]:
    return (import_module("tensorflow").saved_model.load(str(path)),)


_OPENINGS: Mapping[str, Callable[[Path, str], tuple[Any, ...]]] = {
    "keras": _open_keras,
    "onnx": _open_onnx,
    "pyspark": _open_pyspark,
    "tensorflow": _open_tensorflow,
}

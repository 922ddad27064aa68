"""Models of Keras, which travel as `.keras` files."""

import os
import re
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from skysail_common.loaders import tensorflow_runtime
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.rows import answer_in_parts, rows_at_once
from skysail_common.model_functions import OUTPUT_NAME, Function
from skysail_common.tensors import Array, Signature

KERAS_FILE = "model.keras"
_INPUT = "input"
_ADVICE = "make the model with keras.Input(shape) instead of keras.Input(batch_shape=…)"

# Keras numbers the names that it makes up, so that they differ from one notebook to the next.
_MADE_UP = re.compile(r"(?:input_layer|keras_tensor)(?:_\d+)?")


class KerasLoader(Loader):
    """The loader of a `.keras` file that needs no code of the user.

    Options:
        backend: Backend of Keras, such as `tensorflow`.
        safe_mode: False to run the code of lambda layers in the file; absent for True.
    """

    _model: Any = None

    @override
    def load(self, context: ModelContext) -> Function:
        safe_mode = self.options.get("safe_mode", True)
        self._model = _read(context, self.options["backend"], {}, safe_mode=safe_mode)
        return model_function(self._model)

    @override
    def signature(self) -> Signature | None:
        return model_signature(self._model)


class KerasModel:
    """A `.keras` file, with the classes of the user that its model needs."""

    def __init__(self, backend: str, custom_objects: Mapping[str, Any]) -> None:
        """Describe a model.

        Args:
            backend: Backend of Keras, such as `tensorflow`.
            custom_objects: Classes and functions of the user by name.
        """
        self.backend = backend
        self.custom_objects = dict(custom_objects)
        self._predict: Function | None = None

    def load(self, context: ModelContext) -> None:
        """Read the model."""
        model = _read(context, self.backend, self.custom_objects, safe_mode=False)
        self._predict = model_function(model)

    def predict(self, inputs: Any) -> Any:
        """Return the outputs [batch, …] of the model for an array, or for arrays by name."""
        assert self._predict is not None, "the model answers after load()"
        return self._predict(inputs)


def _read(
    context: ModelContext, backend: str, custom_objects: Mapping[str, Any], *, safe_mode: bool
) -> Any:
    # Keras reads its backend when it is imported.
    os.environ.setdefault("KERAS_BACKEND", backend)
    if backend == "tensorflow":
        tensorflow_runtime.prepare(context)
    import keras

    return keras.saving.load_model(
        context.data(KERAS_FILE),
        custom_objects=dict(custom_objects),
        compile=False,
        safe_mode=safe_mode,
    )


def model_function(model: Any) -> Function:
    """Return the function that runs a model on an array, or on arrays by name.

    Raises:
        InvalidInput: the model takes batches of one size only.
    """
    symbolic = getattr(model, "inputs", None) or ()
    if not symbolic:
        return lambda inputs: _result(model.predict_on_batch(inputs))
    names, own_names = _names(symbolic), [each.name for each in symbolic]
    outputs = list(_outputs(model))
    rows = rows_at_once(names[0], symbolic[0].shape[0], _ADVICE)

    def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
        given = [arrays[name] for name in names]
        one = given[0] if len(names) == 1 else dict(zip(own_names, given, strict=True))
        answer = model.predict_on_batch(one)
        if isinstance(answer, Mapping):
            return dict(answer)
        several = answer if isinstance(answer, (list, tuple)) else [answer]
        return dict(zip(outputs, several, strict=True))

    return lambda arrays: answer_in_parts(run, arrays, rows)


def _result(answer: Any) -> Any:
    return tuple(answer) if isinstance(answer, list) else answer


def model_signature(model: Any) -> Signature | None:
    """Return the signature of a model; None if only a call shows it.

    Raises:
        InvalidInput: a type has no datatype.
    """
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return None
    return Signature(
        tuple(map(_spec, _names(inputs), inputs)),
        tuple(_spec(name, value) for name, value in _outputs(model).items()),
    )


def _spec(name: str, value: Any) -> Any:
    return tensorflow_runtime.spec_of(name, value.dtype, tuple(value.shape))


def _names(inputs: Any) -> list[str]:
    names = [each.name for each in inputs]
    return [_INPUT] if len(names) == 1 and _MADE_UP.fullmatch(names[0]) else names


def _outputs(model: Any) -> dict[str, Any]:
    """Return the symbolic outputs of a model by name; empty if only a call shows them."""
    if not getattr(model, "inputs", None):
        return {}
    structure = getattr(model, "output", None)
    if isinstance(structure, Mapping):
        return dict(structure)
    if len(model.outputs) == 1:
        return {OUTPUT_NAME: model.outputs[0]}
    return dict(zip(model.output_names, model.outputs, strict=True))

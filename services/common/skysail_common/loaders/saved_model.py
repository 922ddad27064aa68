"""SavedModel folders of TensorFlow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from skysail_common.errors import InvalidInput
from skysail_common.loaders import tensorflow_runtime
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.rows import answer_in_parts, rows_at_once
from skysail_common.model_functions import Function
from skysail_common.tensors import Array, Signature, TensorSpec

_DEFAULT = "serving_default"
_ADVICE = "save a function whose tf.TensorSpec begins with None"


class SavedModelLoader(Loader):
    """The loader of a SavedModel.

    Options:
        method: Signature of the SavedModel that answers; absent for `serving_default`.
    """

    folder = "model"
    """Name of the folder in an artifact."""
    _model: Any = None
    _function: Any = None

    @override
    def load(self, context: ModelContext) -> Function:
        return self.open(context.data(self.folder), context)

    def open(self, folder: Path, context: ModelContext) -> Function:
        """Return the function of a folder.

        Raises:
            InvalidInput: the model lacks the signature.
        """
        tensorflow = tensorflow_runtime.prepare(context)
        # The functions of a SavedModel work only while the model exists.
        self._model = tensorflow.saved_model.load(str(folder))
        name = self.options.get("method", _DEFAULT)
        if name not in self._model.signatures:
            known = ", ".join(map(repr, self._model.signatures)) or "none"
            raise InvalidInput(
                f"cannot deploy the SavedModel: it has no signature {name!r} ({known}); give "
                "method=, or save it with signatures="
            )
        function = self._function = self._model.signatures[name]
        wanted = self._inputs()
        first = next(iter(wanted))
        rows = rows_at_once(first, _batch_size(wanted[first]), _ADVICE)

        def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
            tensors = {
                each: tensorflow.constant(arrays[each], dtype=wanted[each].dtype) for each in wanted
            }
            return {key: value.numpy() for key, value in function(**tensors).items()}

        def predict(inputs: Any) -> dict[str, Array]:
            arrays = inputs if isinstance(inputs, Mapping) else {first: inputs}
            return answer_in_parts(run, arrays, rows)

        return predict

    @override
    def signature(self) -> Signature | None:
        """Return what the model states; None if it does not state the rank of an output."""
        outputs = self._function.structured_outputs
        if any(each.shape.rank is None for each in outputs.values()):
            return None
        return Signature(
            tuple(_spec("input", name, each) for name, each in self._inputs().items()),
            tuple(_spec("output", name, outputs[name]) for name in sorted(outputs)),
        )

    def _inputs(self) -> dict[str, Any]:
        named = self._function.structured_input_signature[1]
        return {name: named[name] for name in sorted(named)}


def _batch_size(value: Any) -> int | None:
    return value.shape.as_list()[0] if value.shape.rank else None


def _spec(kind: str, name: str, value: Any) -> TensorSpec:
    if not value.shape.rank:
        raise InvalidInput(
            f"cannot deploy the SavedModel: {kind} {name!r} has no batch axis; save a function of "
            "tensors [batch, …]"
        )
    return tensorflow_runtime.spec_of(name, value.dtype.name, tuple(value.shape.as_list()))

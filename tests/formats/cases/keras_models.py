"""Models of Keras, and SavedModel folders of TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case

ROWS = np.array([[1, 2, 3, 4], [0.5, -1, 2, 0], [-3, 1, 0, 2]], np.float32)
TEXTS = np.array(["a b", "Å", ""], object)


def model(number: int, folder: Path) -> Any:
    import keras

    keras.utils.set_random_seed(number)
    features = keras.Input((4,), name="features")
    hidden = keras.layers.Dense(8, activation="relu")(features)
    return keras.Model(features, keras.layers.Dense(3)(keras.layers.Dropout(0.5)(hidden)))


def model_file(number: int, folder: Path) -> Path:
    path = folder / "net.keras"
    model(number, folder).save(path)
    return path


def answer(made: Any, batch: Any) -> Any:
    import keras

    loaded = keras.saving.load_model(made) if isinstance(made, Path) else made
    return loaded.predict(batch, verbose=0)


def saved_model(number: int, folder: Path) -> Path:
    path = folder / "saved"
    model(number, folder).export(path, verbose=False)
    return path


def saved_model_answer(path: Path, batch: Any) -> dict[str, Any]:
    import tensorflow

    function = tensorflow.saved_model.load(str(path)).signatures["serving_default"]
    return {"output_0": function(features=tensorflow.constant(batch))["output_0"].numpy()}


def text_model(number: int, folder: Path) -> Path:
    import tensorflow

    class Upper(tensorflow.Module):
        @tensorflow.function(
            input_signature=[tensorflow.TensorSpec([None], tensorflow.string, name="texts")]
        )
        def __call__(self, texts: Any) -> dict[str, Any]:
            upper = tensorflow.strings.upper(texts, encoding="utf-8")
            return {"upper": tensorflow.strings.join([str(number), upper])}

    path = folder / "texts"
    tensorflow.saved_model.save(Upper(), str(path))
    return path


def text_answer(path: Path, batch: Any) -> dict[str, Any]:
    import tensorflow

    function = tensorflow.saved_model.load(str(path)).signatures["serving_default"]
    found = function(texts=tensorflow.constant(batch))["upper"].numpy()
    return {"upper": np.array([each.decode() for each in found], object)}


def _case(name: str, make: Any, predict: Any, module: str, rows: Any = ROWS) -> Case:
    # TensorFlow takes seconds to start, and its kernels may differ in the last bits of a float32.
    return Case(
        name, make, lambda: rows, predict, needs=["tensorflow", "keras"], module=module,
        needs_same_python=False, tolerance=1e-5,
    )  # fmt: skip


CASES = [
    _case("keras", model, answer, "keras"),
    _case("keras-file", model_file, answer, "keras"),
    _case("saved-model", saved_model, saved_model_answer, "tensorflow"),
    _case("saved-model-of-texts", text_model, text_answer, "tensorflow", TEXTS),
]

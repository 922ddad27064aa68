"""What the contract does not ask of models of Keras."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats import unpacked
from skysail.artifact.build import build_artifact
from skysail_common.errors import InvalidInput
from skysail_model_server.model import Model

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")

# Layers of this file are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None

X = np.array([[1, 2, 3, 4], [0.5, -1, 2, 0]], np.float32)


class Doubled(keras.layers.Layer):
    def call(self, x):
        return x * 2


class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def load(source: Any, directory: Path, **options: Any) -> Model:
    artifact = build_artifact(source, **options)
    unpacked.write(artifact, directory)
    artifact.close()
    return unpacked.load(directory)


def test_inputs_and_outputs_keep_their_names(tmp_path: Path):
    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    both = keras.layers.Concatenate()([left, right])
    total = keras.layers.Dense(1, name="total")(both)
    made = keras.Model([left, right], [total, keras.layers.Dense(3, name="classes")(both)])
    model = load(made, tmp_path)
    assert [each.name for each in model.signature.inputs] == ["left", "right"]
    assert [each.name for each in model.signature.outputs] == ["total", "classes"]
    a, b = X[:, :2].copy(), X[:, 2:].copy()
    for found, expected in zip(
        model.predict([a, b], 2), made.predict([a, b], verbose=0), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_made_up_names_do_not_show(tmp_path: Path):
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model = load(made, tmp_path)
    assert [each.name for each in (*model.signature.inputs, *model.signature.outputs)] == [
        "input", "output",
    ]  # fmt: skip
    np.testing.assert_allclose(model.predict([X], 2)[0], made.predict(X, verbose=0), rtol=1e-5)


@pytest.mark.parametrize("layer", [Doubled, lambda: keras.layers.Lambda(lambda x: x * 2)])
def test_layers_of_the_user_travel(tmp_path: Path, layer: Any):
    features = keras.Input((4,), name="x")
    model = load(keras.Model(features, layer()(features)), tmp_path)
    np.testing.assert_allclose(model.predict([X], 2)[0], X * 2)


def test_a_model_of_one_row_answers_row_by_row(tmp_path: Path):
    features = keras.Input(batch_shape=(1, 4), name="x")
    made = keras.Model(features, keras.layers.Dense(2)(features))
    expected = np.concatenate([made.predict(X[:1], verbose=0), made.predict(X[1:], verbose=0)])
    np.testing.assert_allclose(load(made, tmp_path).predict([X], 2)[0], expected, rtol=1e-5)
    features = keras.Input(batch_shape=(8, 4), name="x")
    with pytest.raises(InvalidInput, match=r"'x' has a batch axis of the fixed size 8"):
        build_artifact(keras.Model(features, Doubled()(features)))


def test_a_saved_model_of_another_fixed_batch_is_refused(tmp_path: Path):
    import tensorflow

    class Same(tensorflow.Module):
        @tensorflow.function(input_signature=[tensorflow.TensorSpec([3, 2], name="x")])
        def __call__(self, x):
            return {"y": x}

    tensorflow.saved_model.save(Same(), str(tmp_path / "m"))
    with pytest.raises(
        InvalidInput, match=r"'x' has a batch axis of the fixed size 3, .*TensorSpec"
    ):
        build_artifact(tmp_path / "m")


def test_a_subclassed_model_needs_an_example(tmp_path: Path):
    made = Subclassed()
    made(X)
    with pytest.raises(InvalidInput, match="example"):
        build_artifact(made)
    model = load(made, tmp_path, example=X)
    np.testing.assert_allclose(model.predict([X], 2)[0], made.predict(X, verbose=0), rtol=1e-5)


def test_a_damaged_file_is_refused(tmp_path: Path):
    (tmp_path / "m.keras").write_bytes(b"no archive")
    with pytest.raises(InvalidInput, match=r"m\.keras"):
        build_artifact(tmp_path / "m.keras")


def test_a_signature_that_a_saved_model_lacks_is_named(tmp_path: Path):
    features = keras.Input((4,), name="x")
    keras.Model(features, Doubled()(features)).export(tmp_path / "m", verbose=False)
    with pytest.raises(InvalidInput, match=r"no signature 'classify' \('serv.*'\); give method="):
        build_artifact(tmp_path / "m", method="classify")

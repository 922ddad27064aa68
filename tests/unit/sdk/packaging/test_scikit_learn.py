import sys

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import skysail
from skysail.artifact.build import build_artifact
from skysail_common.loaders.tables import EstimatorFunction

ROWS = np.arange(20.0).reshape(10, 2)
LABELS = np.arange(10) % 2


def test_an_estimator_answers_by_predict_and_pins_its_packages():
    artifact = build_artifact(LinearRegression().fit(ROWS, LABELS), example=ROWS[:3])
    version = sys.modules["sklearn"].__version__
    assert f"scikit-learn=={version}" in artifact.manifest.requirements
    assert artifact.manifest.packages["numpy"] == np.__version__
    assert [spec.name for spec in artifact.signature.inputs] == ["X"]


def test_a_method_is_chosen_and_named():
    model = RandomForestClassifier(2).fit(ROWS, LABELS)
    artifact = build_artifact(model, example=ROWS[:3], method="predict_proba")
    assert artifact.signature.outputs[0].shape == (-1, 2)
    with pytest.raises(
        skysail.errors.InvalidInput, match=r"no method .predict_probas.*predict_proba,"
    ):
        build_artifact(model, example=ROWS[:3], method="predict_probas")


def test_a_transformer_answers_by_transform():
    artifact = build_artifact(StandardScaler().fit(ROWS), example=ROWS[:3])
    assert artifact.signature.outputs[0].shape == (-1, 2)


def test_sparse_and_several_answers_become_arrays():
    dense = EstimatorFunction(OneHotEncoder().fit([[0], [1]]), "transform")([[1]])
    assert dense.tolist() == [[0, 1]]
    several = RandomForestClassifier(2).fit(ROWS, np.stack([LABELS, 1 - LABELS], axis=1))
    answers = EstimatorFunction(several, "predict_proba")(ROWS[:3])
    assert [answer.shape for answer in answers] == [(3, 2), (3, 2)]


def test_an_estimator_that_is_not_fitted_is_named():
    with pytest.raises(skysail.errors.ModelFailed, match=NotFittedError.__name__):
        build_artifact(LinearRegression(), example=ROWS)


def test_an_example_without_a_batch_axis_is_told_so():
    with pytest.raises(skysail.errors.ModelFailed, match=r"needs a batch axis: give X\[:1\]"):
        build_artifact(LinearRegression().fit(ROWS, LABELS), example=ROWS[0])


def test_an_estimator_without_an_example_is_told_what_is_missing():
    with pytest.raises(skysail.errors.InvalidInput) as caught:
        build_artifact(LinearRegression().fit(ROWS, LABELS))
    assert caught.value.message == (
        "cannot deploy the LinearRegression: its signature is not known; give example=X[:2], a batch "
        "of inputs that it can answer"
    )


def test_an_estimator_in_a_closure_stays_a_function():
    model = LinearRegression().fit(ROWS, LABELS)
    artifact = build_artifact(lambda rows: model.predict(rows) > 0.5, example=ROWS[:3])
    assert artifact.manifest.requirements == ()

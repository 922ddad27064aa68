from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skysail.artifact.build import build_artifact
from skysail_common.errors import InvalidInput
from skysail_model_server.model import Model
from skysail_model_server.model_loader import load_model
from skysail_testing.artifacts import lay_out

# Definitions of this module are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None

X = np.arange(6.0).reshape(2, 3)


class Scaler:
    """A model that reads its factor from a file."""

    def __init__(self, name: str = "factor.txt") -> None:
        self.name = name

    def load(self, context: Any) -> None:
        self.factor = float(context.file(self.name).read_text())
        self.replica = (context.name, context.version, context.device)

    def predict(self, x):
        return x * self.factor

    def score(self, x):
        return x.sum(axis=1) * self.factor


class Plain:
    def predict(self, x):
        return x + 1


class Callable:
    def __call__(self, x):
        return x - 1

    def predict(self, x):
        return x + 1


@pytest.fixture
def factor(tmp_path: Path) -> dict[str, Path]:
    file = tmp_path / "any name"
    file.write_text("3")
    return {"factor.txt": file}


def in_replica(tmp_path: Path, source: Any, **arguments: Any) -> Model:
    """Return the model that a replica loads."""
    artifact = build_artifact(source, example=X, **arguments)
    return load_model(lay_out(artifact, tmp_path / "work"))


def answer(model: Model) -> Any:
    return model.predict([X.copy()], 2)[0].tolist()


@pytest.mark.parametrize("source", [Scaler, Scaler()], ids=["class", "object"])
def test_a_model_with_load_reads_the_files_that_travelled(tmp_path, factor, source):
    assert answer(in_replica(tmp_path, source, files=factor)) == (X * 3).tolist()


def test_load_does_not_change_the_object_of_the_user(factor):
    source = Scaler()
    build_artifact(source, example=X, files=factor)
    assert vars(source) == {"name": "factor.txt"}


def test_another_method_may_answer(tmp_path, factor):
    model = in_replica(tmp_path, Scaler, files=factor, method="score")
    assert answer(model) == (X.sum(axis=1) * 3).tolist()


def test_an_object_without_load_answers_by_its_predict(tmp_path):
    assert answer(in_replica(tmp_path, Plain())) == (X + 1).tolist()


def test_an_object_that_can_be_called_is_called(tmp_path):
    assert answer(in_replica(tmp_path, Callable())) == (X - 1).tolist()


def test_a_missing_method_is_named_with_those_that_exist():
    with pytest.raises(InvalidInput) as caught:
        build_artifact(Scaler(), example=X, method="predict_proba")
    assert caught.value.message == (
        "cannot deploy Scaler: it has no method 'predict_proba'; its methods are load, predict, score"
    )


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"cannot send the file .*nothing: it does not exist"):
        build_artifact(Scaler, example=X, files={"factor.txt": tmp_path / "nothing"})


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../b"])
def test_a_name_outside_of_the_files_is_refused(factor, name):
    with pytest.raises(InvalidInput, match="a name is a relative path"):
        build_artifact(Scaler, example=X, files={name: factor["factor.txt"]})


def test_a_path_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.xyz").write_text("")
    with pytest.raises(InvalidInput, match="no format is known for it; deploy a class whose load"):
        build_artifact(tmp_path / "model.xyz", example=X)
    with pytest.raises(InvalidInput, match="no file or folder has this path"):
        build_artifact(str(tmp_path / "gone.xyz"), example=X)


def test_an_object_that_is_no_model_is_refused():
    with pytest.raises(InvalidInput) as caught:
        build_artifact(3, example=X)
    assert caught.value.message == (
        "cannot deploy a int: it is no function and has no method 'predict'; give method= if another "
        "method answers"
    )

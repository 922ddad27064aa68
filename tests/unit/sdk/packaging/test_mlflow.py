import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

import skysail
from skysail.artifact.build import build_artifact
from skysail.packaging import mlflow
from skysail.packaging.base import PackagingOptions
from skysail.packaging.mlflow import package
from skysail.packaging.mlflow_folder import MlflowFolder


def save(folder: Path, **changes: object) -> Path:
    """Write a folder as MLflow does, without a model."""
    content = {
        "flavors": {"python_function": {"loader_module": "mlflow.sklearn", "python_version": "3.9.2"}},
        "signature": {
            "inputs": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}]),
            "params": json.dumps([{"name": "t", "type": "double", "default": 0.5, "shape": None}]),
        },
        "saved_input_example_info": {"artifact_path": "example.json", "type": "ndarray"},
    } | changes  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "MLmodel").write_text(yaml.safe_dump(content))
    (folder / "requirements.txt").write_text("mlflow==3.1\n# of the flavor\nscikit-learn==1.6.1\n")
    (folder / "example.json").write_text('{"inputs": [[1, 2], [3, 4]]}')
    return folder


def test_a_folder_says_what_the_model_needs(tmp_path: Path):
    folder = MlflowFolder(save(tmp_path / "m"))
    assert folder.python_version == "3.9.2"
    assert folder.has_params
    assert folder.requirements == ("mlflow==3.1", "scikit-learn==1.6.1")
    example = folder.example()
    assert example.dtype == np.float32
    assert example.tolist() == [[1, 2], [3, 4]]


def test_requirements_of_conda(tmp_path: Path):
    folder = save(tmp_path / "m")
    (folder / "requirements.txt").unlink()
    (folder / "conda.yaml").write_text(
        yaml.safe_dump({"dependencies": ["python=3.9", "pip", {"pip": ["mlflow==2", "xgboost"]}]})
    )
    assert MlflowFolder(folder).requirements == ("mlflow==2", "xgboost")


def test_a_folder_travels_whole(tmp_path: Path):
    folder = save(tmp_path / "m")
    packaged = package(str(folder), PackagingOptions())
    assert packaged is not None
    assert packaged.data == {"model": folder}
    assert packaged.python_version == "3.9.2"
    assert packaged.options == {"params": True}


@pytest.mark.parametrize("source", ["nothing", lambda: None, 3])
def test_other_models_are_not_of_mlflow(source):
    assert package(source, PackagingOptions()) is None


def test_a_folder_without_the_flavor_is_named(tmp_path: Path):
    folder = save(tmp_path / "m", flavors={"sklearn": {}})
    with pytest.raises(
        skysail.errors.InvalidInput, match="no flavor 'python_function', only 'sklearn'"
    ):
        package(folder, PackagingOptions())


def test_a_broken_description_is_named(tmp_path: Path):
    folder = save(tmp_path / "m")
    (folder / "MLmodel").write_text("[")
    with pytest.raises(skysail.errors.InvalidInput, match=r"cannot read .*MLmodel"):
        package(folder, PackagingOptions())


def test_a_method_is_refused(tmp_path: Path):
    with pytest.raises(skysail.errors.InvalidInput, match="method='predict_proba'"):
        package(save(tmp_path / "m"), PackagingOptions("predict_proba"))


def test_a_uri_needs_mlflow(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow.artifacts", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(skysail.errors.InvalidInput, match="MLflow is not installed here"):
        package("models:/fraud@best", PackagingOptions())


def test_an_alias_and_a_number_of_one_version_are_the_same_content(tmp_path: Path, monkeypatch):
    def download_artifacts(artifact_uri: str, dst_path: str) -> str:
        folder = save(Path(dst_path) / "m")
        name = artifact_uri.removeprefix("models:/")
        (folder / "registered_model_meta").write_text(f"model_name: fraud\nmodel_version: {name}\n")
        return str(folder)

    artifacts = ModuleType("mlflow.artifacts")
    artifacts.download_artifacts = download_artifacts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.artifacts", artifacts)

    def content(uri: str) -> dict[str, bytes]:
        packaged = package(uri, PackagingOptions())
        assert packaged is not None
        folder = packaged.data["model"]
        assert isinstance(folder, Path)
        files = {each.name: each.read_bytes() for each in folder.iterdir()}
        packaged.temporary[0].cleanup()
        return files

    assert content("models:/fraud/2") == content("models:/fraud@champion")


@pytest.mark.parametrize("params", [{}, {"params": {"scale": 1.0}}])
def test_an_example_of_a_data_frame_may_have_params(tmp_path: Path, params):
    pytest.importorskip("pandas")
    inputs = [{"name": "a", "type": "long"}, {"name": "b", "type": "double"}]
    folder = save(
        tmp_path / "m",
        signature={"inputs": json.dumps(inputs)},
        saved_input_example_info={"artifact_path": "example.json", "type": "dataframe"},
    )
    frame = {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}
    content = {"inputs": frame, **params} if params else frame
    (folder / "example.json").write_text(json.dumps(content))
    example = MlflowFolder(folder).example()
    assert example.to_dict("list") == {"a": [1, 3], "b": [2.0, 4.0]}


def test_a_model_without_an_example_says_so(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(mlflow, "is_installed", lambda name: True)
    folder = save(tmp_path / "m", saved_input_example_info=None)
    with pytest.raises(skysail.errors.InvalidInput) as caught:
        build_artifact(folder)
    assert caught.value.message == (
        "cannot deploy m: the model was logged without an input example that Skysail can read; give "
        "example=frame[:2], a batch that it can answer"
    )


def test_a_fetched_model_is_removed_if_it_cannot_be_deployed(tmp_path: Path, monkeypatch):
    fetched: list[Path] = []

    def fetch(uri: str, directory: str) -> Path:
        fetched.append(Path(directory))
        return save(Path(directory) / "m")

    monkeypatch.setattr(mlflow, "_fetched", fetch)
    packaged = package("models:/m/1", PackagingOptions())
    assert [each.name for each in packaged.temporary] == [str(fetched[0])]
    packaged.temporary[0].cleanup()
    with pytest.raises(skysail.errors.InvalidInput, match="leave method out"):
        package("models:/m/1", PackagingOptions(method="predict_proba"))
    assert not fetched[1].exists()

import pickle
import sys
from collections import OrderedDict
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skysail
from skysail.artifact.build import build_artifact
from skysail.packaging.pickle_scan import scan_pickle

ROWS = np.arange(40.0).reshape(20, 2)
LABELS = np.array(["a", "b"] * 10, object)


@pytest.fixture(scope="module")
def estimator():
    return make_pipeline(StandardScaler(), RandomForestClassifier(3)).fit(ROWS, LABELS)


@pytest.mark.parametrize(
    "suffix", ["joblib", "joblib.gz", "joblib.xz", "joblib.bz2", "joblib.lzma"]
)
def test_names_in_a_file_of_joblib(tmp_path: Path, estimator, suffix):
    estimator.weights = np.zeros(500_000)
    estimator.objects = np.array([Fraction(1, 2), None], object)
    estimator.last = timedelta(1)
    joblib.dump(estimator, tmp_path / f"model.{suffix}")
    scan = scan_pickle(tmp_path / f"model.{suffix}")
    assert scan.is_joblib
    assert scan.is_compressed is (suffix != "joblib")
    assert scan.sklearn_version == sys.modules["sklearn"].__version__
    # Each of the last two stands behind elements of an array.
    assert {"sklearn.tree._tree.Tree", "fractions.Fraction", "datetime.timedelta"} <= scan.names


def test_names_in_a_file_that_joblib_compressed_by_zlib(tmp_path: Path, estimator):
    joblib.dump([estimator, timedelta(1)], tmp_path / "model.pkl", compress=3)
    scan = scan_pickle(tmp_path / "model.pkl")
    assert scan.is_joblib
    assert scan.is_compressed
    assert "datetime.timedelta" in scan.names


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_in_a_pickle(tmp_path: Path, protocol):
    value = [np.zeros(300_000), "x" * 3_000_000, b"y" * 3_000_000, OrderedDict(a=timedelta(1))]
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(value, protocol))
    scan = scan_pickle(tmp_path / "model.pkl")
    assert not scan.is_joblib
    assert {"numpy.dtype", "collections.OrderedDict", "datetime.timedelta"} <= scan.names


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_nothing_in_a_pickle_runs(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Harmful()))
    names = scan_pickle(tmp_path / "model.pkl").names
    assert any(name.endswith("Path.touch") for name in names)
    assert not (tmp_path / "harm").exists()
    pickle.loads((tmp_path / "model.pkl").read_bytes())
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", b"\x1f\x8b broken", b"\x80\x04\x8d" + b"\xff" * 8]
)
def test_what_is_no_pickle_has_no_names(tmp_path: Path, content):
    (tmp_path / "model.pkl").write_bytes(content)
    assert scan_pickle(tmp_path / "model.pkl").names == set()


def test_a_file_needs_the_packages_that_saved_it(tmp_path: Path, estimator):
    joblib.dump(estimator, tmp_path / "model.joblib")
    artifact = build_artifact(str(tmp_path / "model.joblib"), example=ROWS)
    packages = artifact.manifest.packages
    assert {"joblib", "numpy", "scikit-learn"} <= packages.keys()
    assert set(artifact.manifest.requirements) == {f"{name}=={packages[name]}" for name in packages}
    assert artifact.manifest.is_pickled
    assert [blob.path for blob in artifact.manifest.blobs] == [
        "data/model.joblib",
        "example/0/0.bin",
    ]


def test_a_file_of_a_program_is_refused_by_its_names(tmp_path: Path, monkeypatch):
    mine = type("Mine", (), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Mine", mine, raising=False)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(mine()))
    with pytest.raises(skysail.errors.InvalidInput, match=r"model\.pkl: it refers to Mine of the"):
        build_artifact(tmp_path / "model.pkl", example=ROWS)


def test_a_file_without_an_answering_object(tmp_path: Path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(skysail.errors.InvalidInput, match="a dict without a method 'predict'"):
        build_artifact(tmp_path / "model.pkl", example=ROWS)

"""Files of pickle and joblib."""

import pickle
from pathlib import Path
from typing import Any

from formats.case import Case
from formats.cases.scikit_learn import column_pipeline, forest, numbers, people


def joblib_file(number: int, directory: Path) -> Path:
    import joblib

    joblib.dump(column_pipeline(number, directory), directory / "model.joblib")
    return directory / "model.joblib"


def compressed_file(number: int, directory: Path) -> Path:
    """Return the path of a file that joblib wrote compressed, under a name of pickle."""
    import joblib

    joblib.dump(forest(number, directory), directory / "model.pkl", compress=3)
    return directory / "model.pkl"


def pickle_file(number: int, directory: Path) -> Path:
    path = directory / "model.pickle"
    path.write_bytes(pickle.dumps(forest(number, directory)))
    return path


def load(path: Path) -> Any:
    import joblib

    return joblib.load(path)


def ask(path: Path, batch: Any) -> Any:
    return load(path).predict(batch)


CASES = [
    Case(
        "joblib-file",
        joblib_file,
        lambda: people()[:4],
        ask,
        needs=["joblib", "pandas", "sklearn"],
        module="sklearn",
    ),
    Case(
        "joblib-compressed",
        compressed_file,
        lambda: numbers()[0][:4],
        lambda path, batch: load(path).predict_proba(batch),
        needs=["joblib", "sklearn"],
        options={"method": "predict_proba"},
        module="sklearn",
    ),
    Case(
        "pickle-file",
        pickle_file,
        lambda: numbers()[0][:4],
        ask,
        needs=["sklearn"],
        module="sklearn",
    ),
]

"""Estimators and pipelines of scikit-learn, on arrays and on data frames."""

from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case


def numbers(size: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(size, 4))
    return rows, (rows[:, 0] + rows[:, 1] > 0).astype(int)


def people(size: int = 200) -> Any:
    import pandas as pd

    rng = np.random.default_rng(5)
    return pd.DataFrame({
        "age": rng.integers(18, 90, size).astype("float64"),
        "visits": rng.integers(0, 9, size),
        "city": rng.choice(["Oslo", "Rome", "Lima"], size),
    })  # fmt: skip


def labels_of(frame: Any) -> np.ndarray:
    return np.where(frame["age"] + 5 * frame["visits"] > 70, "yes", "no")


def forest(number: int, directory: Path) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    rows, labels = numbers()
    return RandomForestClassifier(5, random_state=number).fit(rows, labels)


def column_pipeline(number: int, directory: Path) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frame = people()
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city"]), (StandardScaler(), ["age", "visits"])
    )
    model = LogisticRegression(C=10.0 ** (-2 * number))
    return make_pipeline(columns, model).fit(frame, labels_of(frame))


def with_own_transformer(number: int, directory: Path) -> Any:
    """Return a pipeline with a class and a function of this module."""
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    class Clipped(BaseEstimator, TransformerMixin):
        def fit(self, rows, labels=None):
            return self

        def transform(self, rows):
            return np.clip(rows, -1, 1)

    rows, labels = numbers()
    return make_pipeline(FunctionTransformer(squared), Clipped(), Ridge(1 + number)).fit(
        rows, labels
    )


def squared(rows):
    return rows**2


CASES = [
    Case(
        "sklearn-forest",
        forest,
        lambda: numbers()[0][:4],
        lambda model, batch: model.predict_proba(batch),
        needs=["sklearn"],
        options={"method": "predict_proba"},
        module="sklearn",
    ),
    Case(
        "sklearn-columns",
        column_pipeline,
        lambda: people()[:4],
        lambda model, batch: model.predict(batch),
        needs=["sklearn", "pandas"],
        module="sklearn",
    ),
    Case(
        "sklearn-own-transformer",
        with_own_transformer,
        lambda: numbers()[0][:4],
        lambda model, batch: model.predict(batch),
        needs=["sklearn"],
        module="sklearn",
    ),
]

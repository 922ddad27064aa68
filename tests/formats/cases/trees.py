"""Models of xgboost, lightgbm and catboost."""

from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case
from formats.cases.scikit_learn import labels_of, numbers, people


def xgboost_booster(number: int, directory: Path) -> Any:
    import xgboost

    rows, labels = numbers()
    data = xgboost.DMatrix(rows, labels)
    return xgboost.train({"objective": "binary:logistic", "seed": number}, data, 5 + number)


def ask_xgboost_booster(model: Any, batch: Any) -> Any:
    import xgboost

    return model.predict(xgboost.DMatrix(batch))


def xgboost_classifier(number: int, directory: Path) -> Any:
    """Return a classifier that stopped early, with a mark for missing values."""
    import xgboost

    rows, labels = numbers()
    rng = np.random.default_rng(7)
    labels = labels ^ (rng.random(len(labels)) < 0.2)
    model = xgboost.XGBClassifier(
        n_estimators=200, early_stopping_rounds=3, missing=-999.0, max_depth=3 + number
    )
    return model.fit(rows[:100], labels[:100], eval_set=[(rows[100:], labels[100:])], verbose=False)


def with_missing() -> np.ndarray:
    rows = numbers()[0][:4]
    rows[1, 0] = -999.0
    return rows


def xgboost_categories(number: int, directory: Path) -> Any:
    import xgboost

    frame = categories()
    model = xgboost.XGBRegressor(n_estimators=5 + number, enable_categorical=True)
    return model.fit(frame, np.arange(len(frame)) % 7)


def categories() -> Any:
    return people().astype({"city": "category"})


def xgboost_ranker(number: int, directory: Path) -> Any:
    import xgboost

    rows, labels = numbers()
    model = xgboost.XGBRanker(n_estimators=5 + number)
    return model.fit(rows, labels, qid=np.repeat(np.arange(20), 10))


def lightgbm_booster(number: int, directory: Path) -> Any:
    import lightgbm

    rows, labels = numbers()
    settings = {"objective": "regression", "verbose": -1}
    return lightgbm.train(settings, lightgbm.Dataset(rows, labels), 5 + number)


def lightgbm_classifier(number: int, directory: Path) -> Any:
    import lightgbm

    frame = categories()
    model = lightgbm.LGBMClassifier(n_estimators=5 + number, verbose=-1)
    return model.fit(frame, labels_of(frame))


def catboost_classifier(number: int, directory: Path) -> Any:
    import catboost

    frame = people()
    model = catboost.CatBoostClassifier(
        iterations=5 + number, cat_features=["city"], verbose=0, allow_writing_files=False
    )
    return model.fit(frame, labels_of(frame))


def catboost_regressor(number: int, directory: Path) -> Any:
    import catboost

    rows, labels = numbers()
    model = catboost.CatBoostRegressor(iterations=5 + number, verbose=0, allow_writing_files=False)
    return model.fit(rows, labels)


def array() -> np.ndarray:
    return numbers()[0][:4]


def predict(model: Any, batch: Any) -> Any:
    return model.predict(batch)


def native(name: str, make: Any, example: Any, ask: Any = predict, **more: Any) -> Case:
    """Return a case of a library that saves its models without pickles."""
    library = name.partition("-")[0]
    needs = ["pandas", library] if example in (people_rows, category_rows) else [library]
    return Case(name, make, example, ask, needs=needs, needs_same_python=False, **more)


def people_rows() -> Any:
    return people()[:4]


def category_rows() -> Any:
    return categories()[:4]


PROBABILITIES = {"method": "predict_proba"}

CASES = [
    native("xgboost-booster", xgboost_booster, array, ask_xgboost_booster, module="xgboost"),
    native("xgboost-classifier", xgboost_classifier, with_missing, module="xgboost"),
    native("xgboost-categories", xgboost_categories, category_rows, module="xgboost"),
    native("xgboost-ranker", xgboost_ranker, array, module="xgboost"),
    native("lightgbm-booster", lightgbm_booster, array, module="lightgbm"),
    native("lightgbm-classifier", lightgbm_classifier, category_rows, module="lightgbm"),
    native(
        "lightgbm-probabilities",
        lightgbm_classifier,
        category_rows,
        lambda model, batch: model.predict_proba(batch),
        options=PROBABILITIES,
        module="lightgbm",
    ),
    native("catboost-classifier", catboost_classifier, people_rows, module="catboost"),
    native("catboost-regressor", catboost_regressor, array, module="catboost"),
]

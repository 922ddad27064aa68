"""The two models and their data.

The data ship with scikit-learn: 1,797 images of handwritten digits, each float64 [64] (8 × 8 grey
values from 0 to 16). 1,437 train, 360 are held out.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@lru_cache(maxsize=1)
def data() -> tuple[Any, Any, Any, Any]:
    """Return training images, held-out images, training labels and held-out labels."""
    images, labels = load_digits(return_X_y=True)
    return tuple(train_test_split(images, labels, test_size=360, random_state=0, stratify=labels))


def random_forest() -> Any:
    """Return a trained random forest of 100 trees."""
    images, _, labels, _ = data()
    return RandomForestClassifier(n_estimators=100, random_state=0).fit(images, labels)


def logistic_regression() -> Any:
    """Return a trained logistic regression."""
    images, _, labels, _ = data()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return model.fit(images, labels)


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """Return the held-out images, float64 [360, 64], and their labels, int64 [360]."""
    _, images, _, labels = data()
    return images, labels

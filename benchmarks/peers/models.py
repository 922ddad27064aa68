"""Trains the models of a peer in its environment, so that the versions of packages match."""

# mypy: disable-error-code="import-untyped, import-not-found"

import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

NUM_HELD_OUT = 360


def train(directory: Path) -> None:
    """Write `lr.joblib` and `rf.joblib`, trained on all but the last images of the digits."""
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.float32)[:-NUM_HELD_OUT]
    labels = labels[:-NUM_HELD_OUT]
    lr = LogisticRegression(max_iter=5000).fit(images, labels)
    rf = RandomForestClassifier(n_estimators=100, random_state=0).fit(images, labels)
    joblib.dump(lr, directory / "lr.joblib")
    joblib.dump(rf, directory / "rf.joblib")


if __name__ == "__main__":
    train(Path(sys.argv[1]))

"""The models that every system serves: no, little and much work for each row of digits."""

import json
from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from skysail_protos.inference import grpc_service_pb2

Array = np.ndarray

NUM_HELD_OUT = 360
NAMES = ("noop", "lr", "rf")


def rows() -> Array:
    """Return the images outside the training set: float32 [360, 64]."""
    images, _ = load_digits(return_X_y=True)
    return np.asarray(images[-NUM_HELD_OUT:], dtype=np.float32)


def functions() -> dict[str, Callable[[Array], Array]]:
    """Return the functions by name; each takes float32 [batch, 64]."""
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.float32)[:-NUM_HELD_OUT]
    labels = labels[:-NUM_HELD_OUT]
    lr = LogisticRegression(max_iter=5000).fit(images, labels)
    rf = RandomForestClassifier(n_estimators=100, random_state=0).fit(images, labels)
    return {"noop": noop, "lr": _predict_of(lr), "rf": _predict_of(rf)}


def _predict_of(model: LogisticRegression | RandomForestClassifier) -> Callable[[Array], Array]:
    # The input is named x in every system, but X in scikit-learn.
    def predict(x: Array) -> Array:
        return np.asarray(model.predict(x))

    return predict


def noop(x: Array) -> Array:
    """Return the input."""
    return x


def infer_requests(name: str) -> list[bytes]:
    """Return a serialized ModelInferRequest for each image."""
    requests = []
    for index, row in enumerate(rows()):
        request = grpc_service_pb2.ModelInferRequest(model_name=name, id=str(index))
        request.inputs.add(name="x", datatype="FP32", shape=[1, 64])
        request.raw_input_contents.append(row.tobytes())
        requests.append(request.SerializeToString())
    return requests


def json_requests(name: str) -> list[bytes]:
    """Return a request body of the REST form of the protocol for each image."""
    return [
        json.dumps(
            {
                "id": str(index),
                "inputs": [
                    {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": row.tolist()}
                ],
            }
        ).encode()
        for index, row in enumerate(rows())
    ]

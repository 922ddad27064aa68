"""The deployer of functions of Keras models."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from skysail.client import Client
from skysail.deployers.base import ADAPTIVE, DEFAULT_IMAGE, Labels, Request
from skysail.descriptions import Version
from skysail.packaging.function_of_model import FunctionOfModel
from skysail.packaging.pins import pinned_for
from skysail.packaging.saved_files import temporary_directory


def deploy_keras_model(
    client: Client,
    name: str,
    version: str | int,
    input_type: str,
    func: Callable[..., Sequence[Any]],
    model_path_or_object: Any,
    base_image: str | None = DEFAULT_IMAGE,
    labels: Labels = None,
    registry: str | None = None,
    num_replicas: int = 1,
    batch_size: int = ADAPTIVE,
    pkgs_to_install: Sequence[str] | None = None,
) -> Version:
    """Deploy a function of a Keras model.

    Args:
        client: A client of the cluster.
        name: Name of the model.
        version: Version of the model.
        input_type: `integers`, `floats`, `doubles`, `bytes` or `strings`.
        func: Takes the model and a list of inputs, and returns a list with an output for each.
        model_path_or_object: A Keras model, or the path of a saved one (`.keras`, `.h5`).
        base_image: Ignored with a warning, except for the default.
        labels: Labels of the version: texts, or a dictionary.
        registry: Ignored with a warning.
        num_replicas: Number of replicas.
        batch_size: Most inputs of one call; -1 to adapt it.
        pkgs_to_install: Packages for pip.
    """
    request = Request(
        client, name, version, input_type, base_image, labels, registry, num_replicas,
        batch_size, pkgs_to_install,
    )  # fmt: skip
    return request.deploy(_function_of(func, model_path_or_object))


def create_endpoint(
    client: Client,
    name: str,
    input_type: str,
    func: Callable[..., Sequence[Any]],
    model_path_or_object: Any,
    default_output: Any = "None",
    version: str | int = 1,
    slo_micros: int = 3_000_000,
    labels: Labels = None,
    registry: str | None = None,
    base_image: str | None = DEFAULT_IMAGE,
    num_replicas: int = 1,
    batch_size: int = ADAPTIVE,
    pkgs_to_install: Sequence[str] | None = None,
) -> Version:
    """Deploy as `deploy_keras_model`, and serve the model as an application of the same name.

    The application appears once the version is ready; if the deploy fails, there is none.

    Args:
        client: A client of the cluster.
        name: Name of the model and of the application.
        input_type: As for `deploy_keras_model`.
        func: As for `deploy_keras_model`.
        model_path_or_object: As for `deploy_keras_model`.
        default_output: Answer if no prediction is in time; None for an error instead.
        version: Version of the model.
        slo_micros: Promised latency in microseconds.
        labels: As for `deploy_keras_model`.
        registry: As for `deploy_keras_model`.
        base_image: As for `deploy_keras_model`.
        num_replicas: As for `deploy_keras_model`.
        batch_size: As for `deploy_keras_model`.
        pkgs_to_install: As for `deploy_keras_model`.

    Raises:
        AlreadyExists: an application of this name has other values or routes.
    """
    request = Request(
        client, name, version, input_type, base_image, labels, registry, num_replicas,
        batch_size, pkgs_to_install,
    )  # fmt: skip
    return request.create_endpoint(
        _function_of(func, model_path_or_object), default_output, slo_micros
    )


def _function_of(func: Callable[..., Any], model: Any) -> FunctionOfModel:
    requirements = pinned_for({"keras", "tensorflow"})
    if isinstance(model, (str, PathLike)):
        return FunctionOfModel(func, "keras", Path(model), requirements=requirements)
    with temporary_directory() as directory:
        path = Path(directory.name) / "model.keras"
        model.save(str(path))
    return FunctionOfModel(func, "keras", path, requirements=requirements, temporary=directory)

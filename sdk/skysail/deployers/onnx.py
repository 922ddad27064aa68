"""The deployer of functions of PyTorch modules that run in ONNX Runtime."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from skysail.client import Client
from skysail.deployers.base import ADAPTIVE, DEFAULT_IMAGE, Labels, Request
from skysail.descriptions import Version
from skysail.errors import Unsupported
from skysail.packaging.function_of_model import FunctionOfModel
from skysail.packaging.pins import pinned
from skysail.packaging.saved_files import temporary_directory


def deploy_pytorch_model(
    client: Client,
    name: str,
    version: str | int,
    input_type: str,
    inputs: Any,
    func: Callable[..., Sequence[Any]],
    pytorch_model: Any,
    base_image: str | None = DEFAULT_IMAGE,
    labels: Labels = None,
    registry: str | None = None,
    num_replicas: int = 1,
    onnx_backend: str = "onnxruntime",
    batch_size: int = ADAPTIVE,
    pkgs_to_install: Sequence[str] | None = None,
) -> Version:
    """Export a PyTorch module to ONNX, and deploy a function of its session.

    Args:
        client: A client of the cluster.
        name: Name of the model.
        version: Version of the model.
        input_type: `integers`, `floats`, `doubles`, `bytes` or `strings`.
        inputs: Inputs of the module for the export, as of `torch.onnx.export`.
        func: Takes the `onnxruntime.InferenceSession` and a list of inputs, and returns a list with an
            output for each.
        pytorch_model: A `torch.nn.Module`.
        base_image: Ignored with a warning, except for the default.
        labels: Labels of the version: texts, or a dictionary.
        registry: Ignored with a warning.
        num_replicas: Number of replicas.
        onnx_backend: Only onnxruntime; the caffe2 of Clipper is retired.
        batch_size: Most inputs of one call; -1 to adapt it.
        pkgs_to_install: Packages for pip.

    Raises:
        Unsupported: the backend is not onnxruntime.
    """
    _check_backend(onnx_backend)
    request = Request(
        client, name, version, input_type, base_image, labels, registry, num_replicas,
        batch_size, pkgs_to_install,
    )  # fmt: skip
    return request.deploy(_function_of(func, pytorch_model, inputs))


def create_pytorch_endpoint(
    client: Client,
    name: str,
    input_type: str,
    inputs: Any,
    func: Callable[..., Sequence[Any]],
    pytorch_model: Any,
    default_output: Any = "None",
    version: str | int = 1,
    slo_micros: int = 3_000_000,
    labels: Labels = None,
    registry: str | None = None,
    base_image: str | None = DEFAULT_IMAGE,
    num_replicas: int = 1,
    onnx_backend: str = "onnxruntime",
    batch_size: int = ADAPTIVE,
    pkgs_to_install: Sequence[str] | None = None,
) -> Version:
    """Deploy as `deploy_pytorch_model`, and serve the model as an application of the same name.

    The application appears once the version is ready; if the deploy fails, there is none.

    Args:
        client: A client of the cluster.
        name: Name of the model and of the application.
        input_type: As for `deploy_pytorch_model`.
        inputs: As for `deploy_pytorch_model`.
        func: As for `deploy_pytorch_model`.
        pytorch_model: As for `deploy_pytorch_model`.
        default_output: Answer if no prediction is in time; None for an error instead.
        version: Version of the model.
        slo_micros: Promised latency in microseconds.
        labels: As for `deploy_pytorch_model`.
        registry: As for `deploy_pytorch_model`.
        base_image: As for `deploy_pytorch_model`.
        num_replicas: As for `deploy_pytorch_model`.
        onnx_backend: As for `deploy_pytorch_model`.
        batch_size: As for `deploy_pytorch_model`.
        pkgs_to_install: As for `deploy_pytorch_model`.

    Raises:
        AlreadyExists: an application of this name has other values or routes.
    """
    _check_backend(onnx_backend)
    request = Request(
        client, name, version, input_type, base_image, labels, registry, num_replicas,
        batch_size, pkgs_to_install,
    )  # fmt: skip
    return request.create_endpoint(
        _function_of(func, pytorch_model, inputs), default_output, slo_micros
    )


def _function_of(func: Callable[..., Any], module: Any, inputs: Any) -> FunctionOfModel:
    with temporary_directory() as directory:
        path = Path(directory.name) / "model.onnx"
        importlib.import_module("torch").onnx.export(module, inputs, str(path), dynamo=False)
    return FunctionOfModel(
        func, "onnx", path, requirements=pinned("onnxruntime"), temporary=directory
    )


def _check_backend(onnx_backend: str) -> None:
    if onnx_backend != "onnxruntime":
        raise Unsupported(
            f"cannot run ONNX with {onnx_backend!r}: replicas have onnxruntime; leave out onnx_backend"
        )

"""The deployer of functions of PyTorch modules."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from skysail.client import Client
from skysail.deployers.base import ADAPTIVE, DEFAULT_IMAGE, Labels, Request
from skysail.descriptions import Version
from skysail.packaging.base import type_modules
from skysail.packaging.pins import pinned_for


def deploy_pytorch_model(
    client: Client,
    name: str,
    version: str | int,
    input_type: str,
    func: Callable[..., Sequence[Any]],
    pytorch_model: Any,
    base_image: str | None = DEFAULT_IMAGE,
    labels: Labels = None,
    registry: str | None = None,
    num_replicas: int = 1,
    batch_size: int = ADAPTIVE,
    pkgs_to_install: Sequence[str] | None = None,
) -> Version:
    """Deploy a function of a PyTorch module.

    Args:
        client: A client of the cluster.
        name: Name of the model.
        version: Version of the model.
        input_type: `integers`, `floats`, `doubles`, `bytes` or `strings`.
        func: Takes the model and a list of inputs, and returns a list with an output for each.
        pytorch_model: A `torch.nn.Module`, which travels as a pickle and is loaded on the CPU.
        base_image: Ignored with a warning, except for the default.
        labels: Labels of the version: texts, or a dictionary.
        registry: Ignored with a warning.
        num_replicas: Number of replicas.
        batch_size: Most inputs of one call; -1 to adapt it.
        pkgs_to_install: Packages for pip; torch is one of them.
    """
    request = Request(
        client, name, version, input_type, base_image, labels, registry, num_replicas,
        batch_size, [*_own_packages(pytorch_model), *(pkgs_to_install or ())],
    )  # fmt: skip
    return request.deploy(partial(func, _on_cpu(pytorch_model)))


def create_endpoint(
    client: Client,
    name: str,
    input_type: str,
    func: Callable[..., Sequence[Any]],
    pytorch_model: Any,
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
    """Deploy as `deploy_pytorch_model`, and serve the model as an application of the same name.

    The application appears once the version is ready; if the deploy fails, there is none.

    Args:
        client: A client of the cluster.
        name: Name of the model and of the application.
        input_type: As for `deploy_pytorch_model`.
        func: As for `deploy_pytorch_model`.
        pytorch_model: As for `deploy_pytorch_model`.
        default_output: Answer if no prediction is in time; None for an error instead.
        version: Version of the model.
        slo_micros: Promised latency in microseconds.
        labels: As for `deploy_pytorch_model`.
        registry: As for `deploy_pytorch_model`.
        base_image: As for `deploy_pytorch_model`.
        num_replicas: As for `deploy_pytorch_model`.
        batch_size: As for `deploy_pytorch_model`.
        pkgs_to_install: As for `deploy_pytorch_model`.

    Raises:
        AlreadyExists: an application of this name has other values or routes.
    """
    request = Request(
        client, name, version, input_type, base_image, labels, registry, num_replicas,
        batch_size, [*_own_packages(pytorch_model), *(pkgs_to_install or ())],
    )  # fmt: skip
    return request.create_endpoint(
        partial(func, _on_cpu(pytorch_model)), default_output, slo_micros
    )


def _on_cpu(module: Any) -> Any:
    """Return a module with its parameters in the memory of the CPU; a copy if they were not."""
    if all(each.device.type == "cpu" for each in module.parameters()):
        return module
    return copy.deepcopy(module).cpu()


def _own_packages(module: Any) -> tuple[str, ...]:
    return pinned_for({"torch"}) if "torch" in type_modules(module) else ()

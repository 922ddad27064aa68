"""Options that select and describe a cluster, by the back end that they are for."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from skysail.clusters.back_ends import DOCKER, LOCAL

F = TypeVar("F", bound=Callable[..., Any])

_PORT = click.IntRange(0, 65535)

cluster_option = click.option(
    "--cluster", default="default", show_default=True, help="Name of the cluster."
)


def _port(name: str, default: int, help_text: str) -> Callable[[F], F]:
    return click.option(name, type=_PORT, default=default, show_default=True, help=help_text)


_PORTS = (
    _port("--http-port", 8000, "Port for queries over HTTP."),
    _port("--grpc-port", 8001, "Port for queries over gRPC."),
    _port("--metrics-port", 8002, "Port of the metrics of the frontend."),
    _port("--management-port", 8003, "Port of management."),
)

_SUPERVISED = (
    click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        help="Listen address of the frontend, for queries.",
    ),
    click.option(
        "--management-host",
        default="127.0.0.1",
        show_default=True,
        help="Listen address of management. Its callers run code on this machine, so any address but "
        "loopback needs TLS and a token.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Let management listen on other addresses than loopback without TLS and a token, because "
        "something else keeps callers away.",
    ),
    *_PORTS,
    click.option(
        "--workers",
        "num_workers",
        type=click.IntRange(1, 256),
        default=1,
        show_default=True,
        help="Processes of the frontend, which share its ports.",
    ),
    click.option(
        "--container-manager",
        default="",
        help="Back end of replicas: local (processes, the default), docker, kubernetes, or an "
        "installed one. With kubernetes all of Skysail runs there.",
    ),
)

_LOCAL = (
    click.option(
        "--pass-env",
        multiple=True,
        metavar="NAME",
        help="Let local replicas inherit this variable, or those of a pattern such as 'AWS_*'; "
        "repeatable. By default they inherit only common variables, without credentials.",
    ),
)

_DOCKER = (
    click.option(
        "--all-in-docker",
        is_flag=True,
        help="Run management, frontend and store as containers too, on the Docker engine of this "
        "machine.",
    ),
    click.option(
        "--prometheus-port",
        type=_PORT,
        help="All in Docker: run Prometheus too, on this port; it scrapes the frontend.",
    ),
)

_KUBERNETES_PLACE = (
    click.option(
        "--namespace", default="skysail", show_default=True, help="Kubernetes: namespace."
    ),
    click.option(
        "--context",
        default="",
        help="Kubernetes: context of the kubeconfig. [default: its current one]",
    ),
    click.option(
        "--kubernetes-proxy-addr",
        metavar="HOST:PORT",
        default="",
        help="Kubernetes: address of 'kubectl proxy', used instead of a kubeconfig.",
    ),
)

_KUBERNETES_MANIFESTS = (
    click.option(
        "--overlay",
        default="local",
        show_default=True,
        help="Kubernetes: local, production, or a directory with a kustomization.",
    ),
    click.option(
        "--image-registry",
        default="",
        help="Kubernetes: registry from which nodes pull the images of Skysail.",
    ),
)

_STORE = (
    click.option(
        "--accept-store-loss",
        default="",
        metavar="NAME",
        help="Use a store that lost its data, and remove the artifacts and replicas that it has no "
        "record of. The error that refuses the start names the store.",
    ),
)

_ONLY_FOR = {
    "prometheus_port": ((DOCKER,), "--prometheus-port goes with --all-in-docker only"),
    "accept_store_loss": (
        (LOCAL, DOCKER),
        "--accept-store-loss is for clusters of this machine; on Kubernetes set "
        "SKYSAIL_MANAGEMENT_ACCEPT_STORE_LOSS in the overlay",
    ),
}
"""The back ends of options that others refuse, and the error of the others."""


def _add(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        # A decorator puts its option before those that are there.
        for option in reversed(options):
            command = option(command)
        return command

    return add


port_options = _add(*_PORTS)
"""Adds the ports of a frontend and of management."""

kubernetes_options = _add(*_KUBERNETES_PLACE)
"""Adds the options that identify a cluster on Kubernetes."""

up_options = _add(
    *(cluster_option, *_SUPERVISED, *_LOCAL, *_DOCKER),
    *(*_KUBERNETES_PLACE, *_KUBERNETES_MANIFESTS, *_STORE),
)
"""Adds the options of every back end."""


def check_options(back_end: str, replicas: str, flags: Mapping[str, Any]) -> None:
    """Check that the given options are for the chosen back end.

    Args:
        back_end: Name of the back end of the services.
        replicas: Name of the container manager of the replicas.
        flags: Options of the command.

    Raises:
        UsageError: an option is for another back end.
    """
    if flags["pass_env"] and replicas != LOCAL:
        raise click.UsageError(
            "cannot use --pass-env: only local replicas inherit variables; deploy models with "
            "environment= instead"
        )
    for name, (back_ends, text) in _ONLY_FOR.items():
        if flags[name] not in (None, "", ()) and back_end not in back_ends:
            raise click.UsageError(text)

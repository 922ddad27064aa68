"""Commands for clusters on Kubernetes only: forward, registry login."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from skysail.cli.cluster_options import cluster_option, kubernetes_options, port_options
from skysail.cli.endpoints import print_endpoints, print_hint
from skysail.cli.options import data_dir_option, find_data_dir
from skysail.clusters.cluster_file import restored_endpoints, write_endpoints
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.options import ClusterEndpoints
from skysail_common.errors import InvalidInput


@click.command()
@data_dir_option
@cluster_option
@kubernetes_options
@port_options
def forward(
    data_dir: Path | None,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    management_port: int,
    **flags: Any,
) -> None:
    """Forward local ports to a cluster on Kubernetes.

    It runs until Ctrl-C. Until then clients and commands on this machine find the cluster without
    options.

    \b
    Example:
      skysail forward --namespace models
    """
    # The import is here because the base install lacks the client of Kubernetes.
    from skysail.clusters.kubernetes.port_forwards import forward_ports

    directory = find_data_dir(data_dir)
    options = KubernetesOptions.from_flags(flags)
    ports = {
        "http": http_port,
        "grpc": grpc_port,
        "metrics": metrics_port,
        "management": management_port,
    }

    def on_ready(endpoints: ClusterEndpoints) -> None:
        name = options.frontend_name if endpoints.scheme == "https" else ""
        write_endpoints(directory, endpoints, server_name=name)
        print_endpoints(endpoints)
        if name:
            print_hint(f"Its certificate must name {name}; SKYSAIL_TLS_SERVER_NAME names another.")
        print_hint("Ctrl-C ends it.")
        sys.stdout.flush()

    with restored_endpoints(directory):
        asyncio.run(forward_ports(options, ports, on_ready))


@click.group()
def registry() -> None:
    """Log in to registries from which Kubernetes pulls.

    \b
    Example:
      skysail registry login registry.example:5000 --username me
    """


@registry.command()
@click.argument("server")
@click.option("--username", required=True, help="User name at the registry.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@cluster_option
@kubernetes_options
def login(server: str, username: str, password_stdin: bool, **flags: Any) -> None:
    """Let pods pull from a private registry.

    The command creates the pull secret and adds it to the service accounts. Run it before or after
    `skysail up`.

    \b
    Example:
      skysail registry login registry.example:5000 --username me --password-stdin < password
    """
    # The import is here because the base install lacks the client of Kubernetes.
    from skysail.clusters.kubernetes.pull_secret import log_in

    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt("Password", hide_input=True)
    if not password:
        raise InvalidInput("cannot log in: the password is empty")
    options = KubernetesOptions.from_flags(flags)
    accounts = asyncio.run(log_in(options, server, username, password))
    who = ", ".join(accounts) or "the service accounts that 'skysail up' will make"
    click.echo(f"pull secret for {server} in namespace {options.namespace}: {who}")


COMMANDS = (forward, registry)

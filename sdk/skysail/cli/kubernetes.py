"""Commands about a cluster on Kubernetes: forward, registry login; what up does there."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.markup import escape

from skysail.cli.options import data_dir_of, data_dir_option
from skysail.cli.output import console
from skysail.clusters.kubernetes.note import KubernetesNote
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.options import ClusterEndpoints
from skysail.settings import CLUSTER_FILE, ClientSettings
from skysail_common.errors import InvalidInput

F = TypeVar("F", bound=Callable[..., Any])

KUBERNETES = "kubernetes"


def kubernetes_options(command: F) -> F:
    """Add the options that say which cluster on Kubernetes is meant."""
    for option in reversed(
        [
            click.option(
                "--namespace", default="skysail", show_default=True, help="Kubernetes: namespace."
            ),
            click.option(
                "--context",
                default="",
                help="Kubernetes: context of the kubeconfig. [default: its own]",
            ),
            click.option(
                "--kubernetes-proxy-addr",
                metavar="HOST:PORT",
                default="",
                help="Kubernetes: where 'kubectl proxy' listens; used instead of a kubeconfig.",
            ),
        ]
    ):
        command = option(command)
    return command


def up_kubernetes(data_dir: Path, **values: str) -> None:
    """Apply the overlay, wait, and note how the cluster is reached."""
    # The imports are here because the base install lacks the client of Kubernetes.
    from skysail.clusters.kubernetes.overlay import objects_of
    from skysail.clusters.kubernetes.services import KubernetesServices

    options = options_of(**values)
    objects = objects_of(options)
    services = KubernetesServices(options)
    before = KubernetesNote.read(data_dir)

    async def run() -> ClusterEndpoints:
        try:
            _tell(f"cluster {options.cluster!r} in {await services.open()}")
            await services.check(objects)
            note = await services.claim(_tell)
            if before is not None and before.where != note.where:
                _tell(f"{before.where} runs on; '{before.down_command}' removes it")
            # `down` finds also what a start that fails has made.
            note.write(data_dir)
            await services.start(objects, _tell)
            return await services.endpoints()
        finally:
            await services.close()

    endpoints = asyncio.run(run())
    write_endpoints(data_dir, endpoints)
    print_kubernetes_endpoints(endpoints)


def write_endpoints(data_dir: Path, endpoints: ClusterEndpoints, server_name: str = "") -> None:
    """Tell clients in this data directory how the cluster is reached.

    Args:
        data_dir: The data directory.
        endpoints: Where it is reached.
        server_name: Name in the certificates of frontends; that of their endpoint if empty.
    """
    record = {name: endpoint for name, endpoint in vars(endpoints).items() if endpoint}
    if server_name:
        record["server_name"] = server_name
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    (data_dir / CLUSTER_FILE).write_text(json.dumps(record))


def options_of(**values: str) -> KubernetesOptions:
    """Return the options of a cluster on Kubernetes, checked."""
    kubeconfig = ClientSettings().kubeconfig
    return KubernetesOptions(kubeconfig=kubeconfig, **values).checked()


def _tell(line: str) -> None:
    click.echo(f"  {line}", err=True)


def print_kubernetes_endpoints(endpoints: ClusterEndpoints) -> None:
    """Show the addresses of the cluster, or how to make it reachable."""
    from skysail.cli.cluster import print_endpoints

    print_endpoints(endpoints)
    screen = console()
    screen.print("It runs on; 'skysail down' removes it.", style="dim")
    if not endpoints.management:
        screen.print(
            "Management has no door to the outside: 'skysail forward' makes one here.", style="dim"
        )


@click.command()
@data_dir_option
@click.option("--cluster", default="default", show_default=True, help="Name of the cluster.")
@kubernetes_options
@click.option("--http-port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True)
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=8002, show_default=True)
@click.option("--management-port", type=click.IntRange(0, 65535), default=8003, show_default=True)
def forward(
    data_dir: Path | None,
    cluster: str,
    namespace: str,
    context: str,
    kubernetes_proxy_addr: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    management_port: int,
) -> None:
    """Forward local ports to a cluster on Kubernetes.

    It runs until Ctrl-C; meanwhile clients and commands on this machine find the cluster by themselves.

    \b
    Example:
      skysail forward --namespace models
    """
    from skysail.clusters.kubernetes.forward import forward as forward_ports

    directory = data_dir_of(data_dir)
    options = options_of(
        namespace=namespace, cluster=cluster, context=context, proxy_addr=kubernetes_proxy_addr
    )
    note = directory / CLUSTER_FILE
    before = note.read_text() if note.exists() else None
    ports = {
        "http": http_port,
        "grpc": grpc_port,
        "metrics": metrics_port,
        "management": management_port,
    }

    def on_ready(endpoints: ClusterEndpoints) -> None:
        from skysail.cli.cluster import print_endpoints

        name = options.frontend_name if endpoints.scheme == "https" else ""
        write_endpoints(directory, endpoints, name)
        print_endpoints(endpoints)
        if name:
            console().print(
                f"Its certificate must name {name}; SKYSAIL_TLS_SERVER_NAME names another.",
                style="dim",
            )
        console().print("Ctrl-C ends it.", style="dim")
        sys.stdout.flush()

    try:
        asyncio.run(forward_ports(options, ports, on_ready))
    finally:
        if before is None:
            note.unlink(missing_ok=True)
        else:
            note.write_text(before)


@click.group()
def registry() -> None:
    """Registries that Kubernetes pulls from.

    \b
    Example:
      skysail registry login registry.example:5000 --username me
    """


@registry.command()
@click.argument("server")
@click.option("--username", required=True, help="Who logs in.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--cluster", default="default", show_default=True, help="Name of the cluster.")
@kubernetes_options
def login(
    server: str,
    username: str,
    password_stdin: bool,
    cluster: str,
    namespace: str,
    context: str,
    kubernetes_proxy_addr: str,
) -> None:
    """Let pods pull from a private registry.

    Makes the pull secret and names it in the service accounts; before or after `skysail up`.

    \b
    Example:
      skysail registry login registry.example:5000 --username me --password-stdin < password
    """
    from skysail.clusters.kubernetes.registry import log_in

    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt("Password", hide_input=True)
    if not password:
        raise InvalidInput("the password is empty")
    options = options_of(
        namespace=namespace, cluster=cluster, context=context, proxy_addr=kubernetes_proxy_addr
    )
    accounts = asyncio.run(log_in(options, server, username, password))
    who = ", ".join(accounts) or "the service accounts that 'skysail up' will make"
    click.echo(f"pull secret for {server} in namespace {escape(namespace)}: {who}")


COMMANDS = (forward, registry)

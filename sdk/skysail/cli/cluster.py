"""Commands about the cluster: up, status."""

import asyncio
import os
import subprocess
import sys
from collections import Counter, deque
from pathlib import Path

import click
from rich.markup import escape

from skysail.cli.kubernetes import (
    KUBERNETES,
    kubernetes_options,
    up_kubernetes,
)
from skysail.cli.options import client_of, data_dir_of, data_dir_option, endpoint_option
from skysail.cli.output import console, output_option, print_json, print_table, state
from skysail.clusters.kubernetes.note import KubernetesNote
from skysail.clusters.local.cluster import Cluster
from skysail.clusters.local.lock import check_idle
from skysail.clusters.options import ClusterEndpoints, ClusterOptions
from skysail.descriptions import ClusterStatus
from skysail.settings import ClientSettings
from skysail_common.extras import require_extra
from skysail_common.process.child_process import StartFailed
from skysail_common.process.data_dir import log_path, open_log
from skysail_common.process.logs import configure
from skysail_common.process.ready_line import parse_ready_line, print_ready_line
from skysail_common.process.sockets import without_brackets

_LOG_TAIL_LINES = 20


@click.command()
@data_dir_option
@click.option("--cluster", default="default", show_default=True, help="Name of the cluster.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address of the frontend, for queries."
)
@click.option(
    "--management-host",
    default="127.0.0.1",
    show_default=True,
    help="Address of management. Its callers run code on this machine: elsewhere than on loopback it "
    "needs TLS and a token.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Open management elsewhere than on loopback without TLS and a token, because something else "
    "keeps callers away.",
)
@click.option("--http-port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True)
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=8002, show_default=True)
@click.option("--management-port", type=click.IntRange(0, 65535), default=8003, show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes of the frontend, which share its ports.",
)
@click.option(
    "--container-manager",
    default="",
    help="What replicas run as: local (processes, the default), docker, kubernetes, or an installed "
    "one. With kubernetes all of Skysail runs there.",
)
@click.option(
    "--pass-env",
    multiple=True,
    metavar="NAME",
    help="Let local replicas inherit this variable, or those of a pattern such as 'AWS_*'; repeatable. "
    "Without it they have the usual ones only, and no credentials.",
)
@click.option(
    "--all-in-docker",
    is_flag=True,
    help="Run management, frontend and store as containers too, on the engine of this machine.",
)
@click.option(
    "--prometheus-port",
    type=click.IntRange(0, 65535),
    help="All in Docker: run Prometheus too, which asks the frontend for its metrics, on this port.",
)
@kubernetes_options
@click.option(
    "--overlay",
    default="local",
    show_default=True,
    help="Kubernetes: local, production, or a directory with a kustomization.",
)
@click.option(
    "--image-registry",
    default="",
    help="Kubernetes: registry that nodes pull the images of Skysail from.",
)
@click.option(
    "--accept-store-loss",
    default="",
    metavar="NAME",
    help="Take a store that lost its data as it is, and remove the artifacts and replicas that it does "
    "not know. The refusal to start tells the name.",
)
@click.option("--detach", is_flag=True, help="Return once it is ready; it goes on running.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
)
@click.option("--log-format", type=click.Choice(["console", "json"]), default="console")
@click.option("--ready-line", is_flag=True, hidden=True)
def up(
    data_dir: Path | None,
    cluster: str,
    host: str,
    management_host: str,
    insecure: bool,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    management_port: int,
    workers: int,
    container_manager: str,
    pass_env: tuple[str, ...],
    all_in_docker: bool,
    prometheus_port: int | None,
    namespace: str,
    context: str,
    kubernetes_proxy_addr: str,
    overlay: str,
    image_registry: str,
    accept_store_loss: str,
    detach: bool,
    log_level: str,
    log_format: str,
    ready_line: bool,
) -> None:
    """Run a cluster on this machine until Ctrl-C.

    Port 0 lets the system choose one. With SKYSAIL_REDIS_URL set, that server holds the state;
    otherwise an embedded one does, in the data directory.

    \b
    Example:
      skysail up --detach
      skysail up --data-dir /srv/skysail --workers 4
      skysail up --container-manager docker
      skysail up --all-in-docker --prometheus-port 9090 --detach
      skysail up --container-manager kubernetes --namespace models
    """
    if all_in_docker and container_manager not in ("", "docker"):
        raise click.UsageError("--all-in-docker goes with --container-manager docker only")
    if pass_env and (all_in_docker or container_manager not in ("", "local")):
        raise click.UsageError(
            "cannot use --pass-env: only local replicas inherit variables; deploy models with "
            "environment= instead"
        )
    if prometheus_port is not None and not all_in_docker:
        raise click.UsageError("--prometheus-port goes with --all-in-docker only")
    if accept_store_loss and container_manager == KUBERNETES:
        raise click.UsageError(
            "--accept-store-loss is for clusters of this machine; on Kubernetes set "
            "SKYSAIL_MANAGEMENT_ACCEPT_STORE_LOSS in the overlay"
        )
    data_dir = data_dir_of(data_dir)
    if container_manager == KUBERNETES:
        # Nothing of it runs here, and the notes here must not be those of a local cluster.
        check_idle(data_dir)
        up_kubernetes(
            data_dir,
            cluster=cluster,
            namespace=namespace,
            context=context,
            proxy_addr=kubernetes_proxy_addr,
            overlay=overlay,
            image_registry=image_registry,
        )
        return
    require_extra("server")
    if all_in_docker or container_manager == "docker":
        require_extra("docker")
    if (note := KubernetesNote.read(data_dir)) is not None:
        click.echo(f"{note.where} runs on; '{note.down_command}' removes it", err=True)
    if detach:
        _detach(data_dir)
        return
    configure("cluster", log_level, log_format)
    options = ClusterOptions(
        data_dir=data_dir,
        cluster=cluster,
        host=without_brackets(host),
        management_host=without_brackets(management_host),
        insecure=insecure,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        num_workers=workers,
        container_manager=container_manager,
        pass_env=pass_env,
        management_port=management_port,
        prometheus_port=prometheus_port,
        redis_url=ClientSettings().redis_url,
        log_level=log_level,
        log_format=log_format,
    )

    def on_ready(endpoints: ClusterEndpoints) -> None:
        if ready_line:
            print_ready_line("cluster", **vars(endpoints))
            # The reader of standard output is gone.
            os.dup2(2, 1)
        else:
            print_endpoints(endpoints)
            console().print("Ctrl-C stops it.", style="dim")

    cluster_type = _docker_cluster() if all_in_docker else Cluster
    environment = dict(os.environ)  # noqa: TID251 - inherited
    if accept_store_loss:
        environment["SKYSAIL_MANAGEMENT_ACCEPT_STORE_LOSS"] = accept_store_loss
    asyncio.run(cluster_type(options, environment).run(on_ready))


def _docker_cluster() -> type[Cluster]:
    # The import is here because the base install lacks the engine's client.
    from skysail.clusters.docker.cluster import DockerCluster

    return DockerCluster


def _detach(data_dir: Path) -> None:
    """Run the same command without --detach in a new session; return once it is ready."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    log_file = log_path(data_dir, "cluster")
    with open_log(log_file) as output:
        begin = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "skysail", *arguments, "--ready-line"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    assert process.stdout is not None
    for line in process.stdout:
        bound = parse_ready_line(line.decode(errors="replace"))
        if bound is not None:
            print_endpoints(ClusterEndpoints(**bound))
            # Lines keep their width, because people copy them.
            console().print(
                f"It runs on; 'skysail down' stops it. Log: {log_file}", style="dim", soft_wrap=True
            )
            # Left running on purpose.
            process.returncode = 0
            return
    process.wait()
    with log_file.open(errors="replace") as file:
        file.seek(begin)
        tail = deque(file, maxlen=_LOG_TAIL_LINES)
    if not tail:
        raise StartFailed(
            f"the cluster ended before it was ready (exit status {process.returncode}), and its log "
            f"{log_file} is empty; run it without --detach to see why"
        )
    reason = tail.pop().strip().removeprefix("skysail: ")
    click.echo("".join(tail), err=True, nl=False)
    raise StartFailed(reason)


def print_endpoints(endpoints: ClusterEndpoints) -> None:
    """Show how a cluster is reached."""
    prometheus = endpoints.prometheus and f"http://{endpoints.prometheus}"
    rows = [
        ("gRPC", endpoints.grpc, "Open Inference Protocol, QueryService"),
        (
            "HTTP",
            endpoints.http and f"{endpoints.scheme}://{endpoints.http}",
            "/v2/…, /{application}/predict",
        ),
        ("metrics", endpoints.metrics and f"http://{endpoints.metrics}/metrics", "Prometheus"),
        ("management", endpoints.management, "SDK, command line, grpcurl"),
        ("Prometheus", prometheus, "metrics over time"),
    ]
    print_table(
        "",
        ["", "", ""],
        [
            ["[green]✓[/] Skysail is ready", "", ""],
            *(
                [f"  {name}", f"[bold]{escape(where)}[/]", what]
                for name, where, what in rows
                if where
            ),
        ],
        whole=(0, 1),
    )


@click.command()
@endpoint_option
@output_option
def status(endpoint: str | None, output: str) -> None:
    """Show the state of everything.

    \b
    Example:
      skysail status
      skysail status --output json
    """
    with client_of(endpoint) as client:
        found = client.status()
    if output == "json":
        print_json(found)
        return
    store = "[green]reachable[/]" if found.is_store_reachable else "[red]not reachable[/]"
    if found.store_problem and found.is_store_reachable:
        store = "[red]not usable[/]"
    print_table(
        f"cluster {escape(found.cluster)}",
        ["", ""],
        [
            ["Skysail", found.skysail_version],
            ["management", escape(client.endpoint)],
            ["container manager", found.container_manager],
            ["store", store],
            ["transport", escape(_transports(found))],
            *(["frontend", escape(text)] for text in _frontends(found)),
        ],
    )
    if found.store_problem:
        console().print(escape(f"\n{found.store_problem}"), style="red", soft_wrap=True)
    _print_applications(found)
    _print_replicas(found)


def _frontends(found: ClusterStatus) -> list[str]:
    """Return a line for each place where frontends are reached, of those that share it one."""
    places = Counter((each.grpc_endpoint, each.http_endpoint) for each in found.frontends)
    return [
        f"gRPC {grpc}  HTTP {http}{f'  ({count} workers)' if count > 1 else ''}"
        for (grpc, http), count in sorted(places.items())
    ]


def _transports(found: ClusterStatus) -> str:
    names = sorted({each.transport for each in found.frontends if each.transport})
    hint = "; native would be faster, see docs/transports.md" if names == ["grpc"] else ""
    return f"{', '.join(names) or 'unknown: no frontend follows management'}{hint}"


def _print_applications(found: ClusterStatus) -> None:
    rows = [
        [
            escape(each.name),
            each.input_type,
            f"{each.slo_ms:g} ms",
            ", ".join(
                escape(f"{route.model}:{route.version or 'current'}") for route in each.routes
            )
            or "[dim]nothing[/]",
        ]
        for each in found.applications
    ]
    if rows:
        print_table("\napplications", ["name", "input", "SLO", "routed to"], rows)


def _print_replicas(found: ClusterStatus) -> None:
    rows = []
    for model in found.models:
        for version in model.versions:
            marks = ["[green]current[/]"] if version.version == model.current_version else []
            if version.deployment and (limits := version.deployment.autoscaling):
                marks.append(f"{limits.min_replicas} to {limits.max_replicas}")
            mark = ", ".join(marks)
            name = escape(f"{version.model}:{version.version}")
            if not version.replicas:
                note = "not deployed" if version.deployment is None else "0 replicas wanted"
                rows.append([name, mark, f"[dim]{note}[/]", "", ""])
            for replica in version.replicas:
                restarts = str(replica.num_restarts) if replica.num_restarts else ""
                rows.append(
                    [
                        escape(replica.replica_id),
                        mark,
                        state(replica.state),
                        restarts,
                        escape(replica.reason),
                    ]
                )
    if rows:
        columns = ["replica", "", "state", "restarts", "reason"]
        print_table("\nreplicas", columns, rows, whole=range(4), yielding=(0,))


COMMANDS = (up, status)

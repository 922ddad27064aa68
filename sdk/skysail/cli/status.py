"""The command status: the state of a cluster, its applications and its replicas."""

from collections import Counter

import click
from rich.markup import escape

from skysail.cli.options import endpoint_option, open_client
from skysail.cli.output import console, output_option, print_json, print_table, state
from skysail.descriptions import ClusterStatus


@click.command()
@endpoint_option
@output_option
def status(endpoint: str | None, output: str) -> None:
    """Show the state of the cluster.

    The tables list its services, its applications and the replicas of each version.

    \b
    Example:
      skysail status
      skysail status --output json
    """
    with open_client(endpoint) as client:
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
    """Return one line for each pair of endpoints, because workers share theirs."""
    endpoints = Counter((each.grpc_endpoint, each.http_endpoint) for each in found.frontends)
    return [
        f"gRPC {grpc}  HTTP {http}{f'  ({count} workers)' if count > 1 else ''}"
        for (grpc, http), count in sorted(endpoints.items())
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


COMMANDS = (status,)

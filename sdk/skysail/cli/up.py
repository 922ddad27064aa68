"""The command up: it starts a cluster on this machine or on Kubernetes."""

import asyncio
import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import click

from skysail.cli.cluster_options import check_options, up_options
from skysail.cli.endpoints import print_endpoints, print_hint
from skysail.cli.options import data_dir_option, find_data_dir
from skysail.clusters.back_ends import DOCKER, LOCAL, back_end, chosen_back_end
from skysail.clusters.options import ClusterEndpoints
from skysail_common.process.child_process import StartFailed
from skysail_common.process.data_dir import log_path, open_log
from skysail_common.process.logs import configure
from skysail_common.process.ready_line import parse_ready_line, print_ready_line

_LOG_TAIL_LINES = 20


@click.command()
@data_dir_option
@up_options
@click.option("--detach", is_flag=True, help="Return once the cluster is ready, and let it run on.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="Lowest level of log lines.",
)
@click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    help="Format of log lines.",
)
@click.option("--ready-line", is_flag=True, hidden=True)
def up(
    data_dir: Path | None,
    container_manager: str,
    all_in_docker: bool,
    detach: bool,
    log_level: str,
    log_format: str,
    ready_line: bool,
    **flags: Any,
) -> None:
    """Run a cluster on this machine, or start one on Kubernetes.

    On this machine it runs until Ctrl-C, unless --detach is given. With port 0 the system chooses a
    free port. The server that SKYSAIL_REDIS_URL names holds the state; without that variable an
    embedded server does, in the data directory.

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
    name = chosen_back_end(container_manager, is_all_in_docker=all_in_docker)
    flags |= {
        "container_manager": container_manager,
        "log_level": log_level,
        "log_format": log_format,
    }
    check_options(name, DOCKER if all_in_docker else container_manager or LOCAL, flags)
    directory = find_data_dir(data_dir)
    environment = dict(os.environ)  # noqa: TID251 - inherited
    cluster = back_end(name).from_flags(directory, flags, environment)
    cluster.check(report)
    if cluster.is_supervised:
        if detach:
            _detach(directory)
            return
        configure("cluster", log_level, log_format)

    def on_ready(endpoints: ClusterEndpoints) -> None:
        if ready_line:
            print_ready_line("cluster", **vars(endpoints))
            # The parent reads one line of standard output, and then closes it.
            os.dup2(2, 1)
        else:
            print_endpoints(endpoints)
            for line in cluster.hints(endpoints):
                print_hint(line)

    asyncio.run(cluster.up(on_ready, report))


def report(line: str) -> None:
    """Show a line of progress."""
    click.echo(f"  {line}", err=True)


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
            print_hint(f"It runs on; 'skysail down' stops it. Log: {log_file}")
            # A return code keeps Popen from warning that the process still runs.
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


COMMANDS = (up,)

"""The client for ordinary programs and notebooks: `AsyncClient` without asyncio."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from skysail.arguments import checked
from skysail.artifact.build import build_artifact
from skysail.artifact.requirements import read_requirements
from skysail.async_client import AsyncClient
from skysail.calls.application_requests import DEFAULT_SLO_MS
from skysail.calls.deployment_requests import deploy_request
from skysail.calls.promotion_warning import warn_if_not_current
from skysail.checks.check import check
from skysail.checks.report import CheckReport
from skysail.descriptions import Application, ClusterStatus, LogLine, Model, Route, Version
from skysail.progress import OnEvent, show_events, show_local_run
from skysail.sentinels import NOT_GIVEN
from skysail.sync_queries import SyncQueries
from skysail_common.resources import ResourceChanges
from skysail_common.serving_options import PolicyName, ServingOptions


@checked
class Client(SyncQueries):
    """Deploys models to a cluster and queries them.

    The methods are those of `AsyncClient`, with its documentation. Threads may share a client. A
    call raises the error class that the server raised (`skysail.errors`).
    """

    def deploy(
        self,
        source: Any,
        *,
        name: str,
        version: str | int | None = None,
        example: Any = None,
        examples: Sequence[Any] | None = None,
        input_type: str | None = None,
        method: str | None = None,
        files: "Mapping[str, str | PathLike[str]] | None" = None,
        code: "Sequence[str | PathLike[str]]" = (),
        check: bool = True,
        batch: bool = True,
        max_concurrency: int | None = None,
        num_replicas: int | None = None,
        pkgs_to_install: Sequence[str] = (),
        requirements: str | Path | None = None,
        promote: bool | None = None,
        labels: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        num_threads: int | None = None,
        memory_mib: int | None = None,
        cpus: float | None = None,
        gpus: float | None = None,
        max_batch_size: int | None = None,
        start_timeout_s: float | None = None,
        warm_up: bool | None = None,
        application: str | None = None,
        slo_ms: float | None = None,
        default_output: Any = NOT_GIVEN,
        on_event: OnEvent | None = None,
        progress: bool | None = None,
    ) -> Version:
        """Deploy a version of a model; see `AsyncClient.deploy`."""
        request = deploy_request(
            name=name,
            version=version,
            num_replicas=num_replicas,
            promote=promote,
            labels=labels,
            environment=environment,
            resources=ResourceChanges(num_threads, memory_mib, cpus, gpus),
            max_batch_size=max_batch_size,
            start_timeout_s=start_timeout_s,
            warm_up=warm_up,
            application=application,
            slo_ms=slo_ms,
            default_output=default_output,
        )
        if input_type is None:
            show_local_run(name, version, on_event, progress)
        # The function runs on the thread of the caller, because it may depend on that.
        artifact = build_artifact(
            source,
            example=example,
            examples=examples,
            input_type=input_type,
            method=method,
            files=files,
            code=code,
            requirements=read_requirements(pkgs_to_install, requirements),
            check=check,
            batch=batch,
            max_concurrency=max_concurrency,
            max_batch_size=max_batch_size,
        )
        try:
            with show_events(name, version, on_event, progress) as see:
                found = self._run(self._async.deploy_artifact(artifact, request, see))
        finally:
            artifact.close()
        # Two frames are below that of the caller: this method and the check of arguments.
        warn_if_not_current(found, promote, depth=2)
        return found

    def check(self, source: Any, **options: Any) -> CheckReport:
        """Return whether a replica could serve a model; see `skysail.check`."""
        return check(source, **options)

    def start(
        self,
        model: str,
        version: str | int | None = None,
        *,
        num_replicas: int | None = None,
        promote: bool = False,
        environment: Mapping[str, str] | None = None,
        num_threads: int | None = None,
        memory_mib: int | None = None,
        cpus: float | None = None,
        gpus: float | None = None,
        max_batch_size: int | None = None,
        start_timeout_s: float | None = None,
        warm_up: bool | None = None,
        on_event: OnEvent | None = None,
        progress: bool | None = None,
    ) -> Version:
        """Start replicas of a registered version; see `AsyncClient.start`."""
        with show_events(model, version, on_event, progress) as see:
            return self._run(
                self._async.start(
                    model,
                    version,
                    num_replicas=num_replicas,
                    promote=promote,
                    environment=environment,
                    num_threads=num_threads,
                    memory_mib=memory_mib,
                    cpus=cpus,
                    gpus=gpus,
                    max_batch_size=max_batch_size,
                    start_timeout_s=start_timeout_s,
                    warm_up=warm_up,
                    on_event=see,
                    progress=False,
                )
            )

    def register_application(
        self,
        name: str,
        input_type: str = "tensors",
        default_output: Any = NOT_GIVEN,
        slo_ms: float = DEFAULT_SLO_MS,
    ) -> Application:
        """Register an application; see `AsyncClient.register_application`."""
        return self._run(self._async.register_application(name, input_type, default_output, slo_ms))

    def update_application(
        self,
        name: str,
        *,
        slo_ms: float | None = None,
        default_output: Any = NOT_GIVEN,
        removes_default: bool = False,
        uses_cache: bool | None = None,
    ) -> Application:
        """Change an application; see `AsyncClient.update_application`."""
        return self._run(
            self._async.update_application(
                name,
                slo_ms=slo_ms,
                default_output=default_output,
                removes_default=removes_default,
                uses_cache=uses_cache,
            )
        )

    def unregister_application(self, name: str) -> None:
        """Remove an application; see `AsyncClient.unregister_application`."""
        self._run(self._async.unregister_application(name))

    def link(self, application: str, model: str, version: str | int | None = None) -> Application:
        """Route all queries of an application to a model; see `AsyncClient.link`."""
        return self._run(self._async.link(application, model, version))

    def unlink(self, application: str) -> Application:
        """Route an application to nothing; see `AsyncClient.unlink`."""
        return self._run(self._async.unlink(application))

    def set_routes(self, application: str, routes: Sequence[Route]) -> Application:
        """Replace the routes of an application; see `AsyncClient.set_routes`."""
        return self._run(self._async.set_routes(application, routes))

    def applications(self) -> list[Application]:
        """Return every application, by name."""
        return self._run(self._async.applications(), self._async.timeout_s)

    def models(self) -> list[Model]:
        """Return every model with its versions, by name."""
        return self._run(self._async.models(), self._async.timeout_s)

    def describe_model(self, name: str) -> Model:
        """Return a model with its versions; see `AsyncClient.describe_model`."""
        return self._run(self._async.describe_model(name), self._async.timeout_s)

    def describe_version(self, model: str, version: str | int | None = None) -> Version:
        """Return a version with its replicas; see `AsyncClient.describe_version`."""
        return self._run(self._async.describe_version(model, version), self._async.timeout_s)

    def promote(self, model: str, version: str | int) -> str:
        """Make a version current; see `AsyncClient.promote`."""
        return self._run(self._async.promote(model, version), self._async.timeout_s)

    def rollback(self, model: str) -> str:
        """Make the previous version current; see `AsyncClient.rollback`."""
        return self._run(self._async.rollback(model), self._async.timeout_s)

    def tune(
        self,
        model: str,
        *,
        version: str | int | None = None,
        max_batch_size: int | None = NOT_GIVEN,
        policy: PolicyName | None = NOT_GIVEN,
        max_queue_delay_s: float | None = NOT_GIVEN,
        preferred_batch_sizes: Sequence[int] | None = NOT_GIVEN,
        max_queue_size: int | None = NOT_GIVEN,
        priority_step_s: float | None = NOT_GIVEN,
        cache_ttl_s: float | None = NOT_GIVEN,
    ) -> ServingOptions:
        """Change the serving options of a version; see `AsyncClient.tune`."""
        return self._run(
            self._async.tune(
                model,
                version=version,
                max_batch_size=max_batch_size,
                policy=policy,
                max_queue_delay_s=max_queue_delay_s,
                preferred_batch_sizes=preferred_batch_sizes,
                max_queue_size=max_queue_size,
                priority_step_s=priority_step_s,
                cache_ttl_s=cache_ttl_s,
            )
        )

    def scale(
        self,
        model: str,
        num_replicas: int,
        *,
        version: str | int | None = None,
        wait: bool = True,
        timeout_s: float = 120.0,
    ) -> Version:
        """Set the number of replicas of a version; see `AsyncClient.scale`."""
        return self._run(
            self._async.scale(model, num_replicas, version=version, wait=wait, timeout_s=timeout_s)
        )

    def autoscale(
        self,
        model: str,
        *,
        min_replicas: int = 1,
        max_replicas: int,
        version: str | int | None = None,
    ) -> Version:
        """Scale a deployed version by its load; see `AsyncClient.autoscale`."""
        return self._run(
            self._async.autoscale(
                model, min_replicas=min_replicas, max_replicas=max_replicas, version=version
            )
        )

    def undeploy(self, model: str, version: str | int | None = None, *, force: bool = False) -> str:
        """Stop the replicas of a version; see `AsyncClient.undeploy`."""
        return self._run(self._async.undeploy(model, version, force=force))

    def unregister_model(self, model: str, version: str | int | None = None) -> None:
        """Remove a version or a whole model; see `AsyncClient.unregister_model`."""
        self._run(self._async.unregister_model(model, version))

    def logs(
        self,
        model: str,
        version: str | int | None = None,
        *,
        replica: int | None = None,
        tail_lines: int = 100,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """Yield lines of the logs of a version's replicas; see `AsyncClient.logs`."""
        lines = self._async.logs(
            model, version, replica=replica, tail_lines=tail_lines, follow=follow
        )
        while (line := self._run(anext(lines, None))) is not None:
            yield line

    def status(self) -> ClusterStatus:
        """Return the state of the cluster; see `AsyncClient.status`."""
        return self._run(self._async.status(), self._async.timeout_s)

    def restore_store(self) -> int:
        """Restore the records of a store that lost them; see `AsyncClient.restore_store`."""
        return self._run(self._async.restore_store())


for _name, _twin in inspect.getmembers(AsyncClient, inspect.isfunction):
    if hasattr(Client, _name):
        # help() and notebooks show the full text; editors follow the references above.
        getattr(Client, _name).__doc__ = _twin.__doc__

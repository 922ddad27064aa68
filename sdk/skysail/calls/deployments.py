"""Calls that start deployments: deploy and start."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from skysail.arguments import checked
from skysail.artifact.build import Artifact, build_artifact
from skysail.artifact.requirements import read_requirements
from skysail.calls.deployment_requests import (
    deploy_request,
)
from skysail.calls.promotion_warning import warn_if_not_current
from skysail.calls.retries import LostConnection, RetryPolicy
from skysail.calls.scaling import ScalingCalls
from skysail.calls.uploads import UploadCalls
from skysail.checks.check import check
from skysail.checks.report import CheckReport
from skysail.descriptions import DeployEvent, Version
from skysail.progress import OnEvent, show_events, show_local_run
from skysail.sentinels import NOT_GIVEN
from skysail_common.errors import ArtifactNotFound, DeployFailed, Unavailable
from skysail_common.replica_events import NOT_LOADED
from skysail_common.resources import ResourceChanges
from skysail_protos.v1 import management_pb2

_DEPLOY_TIMEOUT_S = 3600.0
_OF_REPLICA = re.compile(r"^\S+:\S+/\d+ failed: ")


@checked
class DeploymentCalls(ScalingCalls, UploadCalls):
    """Calls about deployments."""

    async def deploy(
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
        """Deploy a version of a model and return once its replicas are ready.

        A repeated call is idempotent: an argument that is None keeps the deployed value, and a value
        that differs is changed and reported as an event. A version is immutable, so other content
        under the same version is refused.

        Cancelling or interrupting the call ends it at once. The cluster continues a deployment that
        it has begun; `undeploy` stops it. Before the upload nothing changes in the cluster, but the
        thread that pickles the function runs to its end.

        Args:
            source: A function; an object or class with `predict` and, if wanted, `load(context)`
                and `close()`; or a model of a known format, such as an estimator or the path of a
                file. It takes arrays [batch, …] and returns arrays [batch, …]; with `input_type`
                it takes a list and returns a list. The client pickles a function or object with
                its state before it calls it, and sends the local modules that it uses.
            name: Name of the model.
            version: Version; any legal name, such as "1", "1.0" or "2024-06-01". If None, the
                newest version with the same content, or else the number after the highest one.
            example: Input that the model can answer, with its batch axis, such as `X[:1]`, or
                a dictionary of inputs by name. The signature is inferred from it, and each replica
                warms up with it.
            examples: Several of them in place of one. An axis whose size differs between them, or
                between their outputs, may have any size. Each replica warms up with all of them.
            input_type: `integers`, `floats`, `doubles`, `bytes` or `strings`, in place of an
                example.
            method: Method of the source that answers, such as `predict_proba`; if None, the usual
                one.
            files: Paths of files and folders that travel, by the name under which
                `context.file(name)` finds them in `load(context)`.
            code: Modules and packages that travel although nothing is known to import them: paths
                (`helpers.py`, `./mypkg`) or names (`mypkg`). Data files of packages travel too.
            check: True to look for mistakes: a function that takes only one row, or with an
                `input_type` a function that fails for two sample inputs. False to call the
                function on the examples only.
            batch: False if the function takes one input at a time and returns its output, both
                without a batch axis; the example is then one input too.
            max_concurrency: Most calls side by side in one replica: coroutines of an `async def`
                function (64 if None), or threads with `batch=False` (1 if None).
            num_replicas: Number of replicas, at least 1; if None, 1 for a first deployment.
            pkgs_to_install: Packages for pip, in the format of a requirements file; a str is one
                package.
            requirements: Path of a requirements file with further packages.
            promote: True to make the version current once it is ready, False to leave the current
                one. If None, a first deployment promotes, unless the version was current before.
            labels: User-defined labels to set; other labels stay.
            environment: All environment variables of the replicas; `{}` restarts the version
                without the variables that it had.
            num_threads: Threads of the numeric libraries. 0 means as many as `cpus`; if that is 0
                too, a share of the cores of the machine.
            memory_mib: Memory of a replica in MiB; 0 for no limit.
            cpus: CPUs of a replica, including fractions of one; 0 for the server's default. A
                replica that is a local process gets that number of threads, but no CPU limit.
            gpus: GPUs that only this replica uses, or below 1 a fraction of one; 0 for the server's
                default.
            max_batch_size: Most rows of one batch; if None, the server's default for a first
                deployment.
            start_timeout_s: Longest time from start to ready, in seconds; default as above.
            warm_up: False to skip the call on the example before the first query, for a function
                that is costly or has side effects; default as above.
            application: Name of an application to register, with a route to the model. It appears
                at once with its route when the version is ready; a failed deployment registers none.
                Its input type is that of the model. An application that exists with the same values
                is routed to the model, unless it has other routes.
            slo_ms: Promised latency of that application in milliseconds; 100 if None.
            default_output: Answer of that application if no prediction is in time, as a JSON value.
            on_event: Called with each event of the deployment.
            progress: True to show events on standard error, False to show none. If None, a
                terminal and a notebook show them, unless `on_event` is given.

        Returns:
            The deployed version. Its `version` is the name that the server chose, if none was given.

        Warns:
            SkysailWarning: the version is not current, and `promote` is None.

        Raises:
            InvalidInput: the model cannot be pickled, or an argument is out of range.
            Unsupported: the container manager of the cluster does not support the resources.
            ModelFailed: the function fails on the example.
            AlreadyExists: the version is registered with other content, or the application with
                other values or routes.
            FailedPrecondition: the version is deployed with other resources or environment.
            DeployFailed: no replica became ready. The message has the end of a replica's log; a
                first deployment leaves nothing behind.
        """
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
        # The build runs on a thread, because pickling and compression take seconds, and the
        # function may run its own event loop.
        artifact = await asyncio.to_thread(
            build_artifact,
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
                found = await self.deploy_artifact(artifact, request, see)
        finally:
            artifact.close()
        warn_if_not_current(found, promote, depth=1)
        return found

    async def deploy_artifact(
        self,
        artifact: Artifact,
        request: management_pb2.DeployRequest,
        on_event: OnEvent | None = None,
    ) -> Version:
        """Upload an artifact and deploy it by a request; see `deploy`."""
        request.artifact_sha256 = artifact.sha256
        if on_event is not None and not artifact.signature.is_known:
            text = (
                "the first replica learns inputs and outputs, because this machine lacks a package"
            )
            on_event(DeployEvent("NOTICE", text, "", "", 0, 0))
        retries = RetryPolicy()
        await self._upload(artifact, on_event, retries)
        try:
            return await self._await_deployment(request, on_event, retries)
        except ArtifactNotFound:
            # Management removed the unused artifact after the upload.
            await self._upload(artifact, on_event, retries)
            return await self._await_deployment(request, on_event, retries)

    async def check(self, source: Any, **options: Any) -> CheckReport:
        """Return whether a replica could serve a model, without a cluster; see `skysail.check`.

        Args:
            source: The model, as for `deploy`.
            options: Arguments of `deploy` and of `skysail.check`.
        """
        return await asyncio.to_thread(check, source, **options)

    async def start(
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
        """Start replicas of a registered version and return once they are ready.

        An undeployed version starts with the values of its last deployment, except for the arguments
        that are given. A version that was scaled to 0 gets one replica. A running version does not
        change.

        Args:
            model: Name of the model.
            version: Version; the current one if None.
            num_replicas: As for `deploy`.
            promote: True to make the version current once it is ready.
            environment: As for `deploy`.
            num_threads: As for `deploy`.
            memory_mib: As for `deploy`.
            cpus: As for `deploy`.
            gpus: As for `deploy`.
            max_batch_size: As for `deploy`.
            start_timeout_s: As for `deploy`.
            warm_up: As for `deploy`.
            on_event: As for `deploy`.
            progress: As for `deploy`.

        Raises:
            ModelNotFound: the version is not registered.
            SkysailError: see `deploy`.
        """
        request = deploy_request(
            name=model,
            version=version,
            num_replicas=num_replicas,
            promote=promote or None,
            labels=None,
            environment=environment,
            resources=ResourceChanges(num_threads, memory_mib, cpus, gpus),
            max_batch_size=max_batch_size,
            start_timeout_s=start_timeout_s,
            warm_up=warm_up,
        )
        with show_events(model, version, on_event, progress) as see:
            return await self._await_deployment(request, see, RetryPolicy())

    async def _await_deployment(
        self, request: management_pb2.DeployRequest, on_event: OnEvent | None, retries: RetryPolicy
    ) -> Version:
        """Return the version once it is deployed; repeat the request if the connection breaks."""
        while True:
            try:
                await self._consume_events(request, on_event, retries)
                break
            except (LostConnection, Unavailable) as error:
                # Management continues the deployment, and a repeated request streams the rest.
                wait_s = retries.next_wait_s(error)
            # The wait is outside of the handler, because the error holds the call, which must be
            # released before a fork.
            await asyncio.sleep(wait_s)
        return await self._describe(request.model, request.version, retries)

    async def _consume_events(
        self, request: management_pb2.DeployRequest, on_event: OnEvent | None, retries: RetryPolicy
    ) -> None:
        events = self._stream(lambda stub: stub.Deploy(request, timeout=_DEPLOY_TIMEOUT_S))
        async for message in events:
            retries.note_answer()
            event = DeployEvent.of(message)
            # A repeated request must name the version that the server chose.
            request.version = event.version
            if on_event is not None:
                on_event(event)
            if event.step == "FAILED":
                raise _failure(f"{request.model}:{request.version}", event)
            if event.step == "DONE":
                return
        raise LostConnection(
            Unavailable(f"management at {self.endpoint} ended the stream of events")
        )


def _failure(version: str, event: DeployEvent) -> DeployFailed:
    """Return the error of a failed deployment: the cause, then the log without it."""
    cause = _OF_REPLICA.sub("", event.message)
    lines = event.log_tail.rstrip().split("\n") if event.log_tail else []
    reports = (line.partition(f"{NOT_LOADED}: ")[2] for line in lines)
    rest = [
        line for line, told in zip(lines, reports, strict=True) if not told or told not in cause
    ]
    error = DeployFailed("\n".join([f"cannot deploy {version}: {cause}", *rest]))
    error.log_tail = event.log_tail
    return error

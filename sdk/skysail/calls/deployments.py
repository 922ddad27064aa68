"""Calls about deployments: deploy, start, scale, undeploy."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skysail.arguments import checked
from skysail.artifact.build import Artifact, build_artifact
from skysail.artifact.requirements import read_requirements
from skysail.calls.deployment_requests import (
    autoscaling_request,
    deploy_request,
    scale_request,
    upload_requests,
)
from skysail.calls.models import ModelCalls
from skysail.calls.promotion_warning import warn_if_not_current
from skysail.calls.retries import LostConnection, RetryPolicy
from skysail.descriptions import DeployEvent, Version
from skysail.progress import UPLOADING, OnEvent, show_events, show_local_run
from skysail_common.clock import MONOTONIC
from skysail_common.errors import ArtifactNotFound, DeadlineExceeded, DeployFailed, Unavailable
from skysail_common.model_functions import Function
from skysail_common.resources import ResourceChanges
from skysail_protos.v1 import management_pb2

_DEPLOY_TIMEOUT_S = 3600.0
_UPLOAD_TIMEOUT_S = 3600.0
_SCALE_CHECK_S = 0.1
_OF_REPLICA = re.compile(r"^\S+:\S+/\d+ failed: ")


@checked
class DeploymentCalls(ModelCalls):
    """What operators ask about deployments."""

    async def deploy(
        self,
        function: Function,
        *,
        name: str,
        version: str | int | None = None,
        example: Any = None,
        examples: Sequence[Any] | None = None,
        input_type: str | None = None,
        check: bool = True,
        num_replicas: int | None = None,
        pkgs_to_install: Sequence[str] = (),
        requirements: str | Path | None = None,
        promote: bool | None = None,
        labels: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        num_threads: int | None = None,
        memory_mib: int | None = None,
        cpus: float | None = None,
        gpus: int | None = None,
        max_batch_size: int | None = None,
        start_timeout_s: float | None = None,
        warm_up: bool | None = None,
        on_event: OnEvent | None = None,
        progress: bool | None = None,
    ) -> Version:
        """Deploy a function as a version of a model and return once its replicas are ready.

        The same again changes nothing: what is None stays as it is deployed, and what is given and
        differs is changed, which an event says. Other content under the same version is refused.

        A call that is cancelled or interrupted ends at once. What the cluster has begun goes on there
        until `undeploy`; a call that has not uploaded the function yet changes nothing there, but the
        thread that pickles the function ends only when it is done.

        Args:
            function: Takes arrays [batch, …] and returns arrays [batch, …]; with `input_type`
                takes a list and returns a list. It is pickled, before it runs, with its state, and
                the local modules that it uses travel with it.
            name: Name of the model.
            version: Version; any legal name, such as "1", "1.0" or "2024-06-01". If None, the
                newest version of the same content; without one, the number after the highest.
            example: Input that the function can answer, with its batch axis, such as `X[:1]`, or
                a dictionary of such by name. Teaches the signature and warms each replica up.
            examples: Several such batches in place of one; sizes in which they, or the outputs
                for them, differ may vary.
            input_type: `integers`, `floats`, `doubles`, `bytes` or `strings`, in place of an
                example.
            check: Whether to look for mistakes: a function of one row, and with an `input_type`
                what fails for two made-up inputs. If false, only examples are answered.
            num_replicas: Replicas wanted, at least 1; one for a first deployment if None.
            pkgs_to_install: Packages for pip, as of a requirements file; a str is one of them.
            requirements: A requirements file with more of them.
            promote: Whether to make it the current version once it is ready. If None, a first
                deployment does, unless the version was current before.
            labels: User-defined labels to set; others stay.
            environment: Environment variables of the replicas, all of them: `{}` starts a version
                again without those that it had.
            num_threads: Threads of the numeric libraries; 0 for as many as `cpus`, or where that
                is 0 too, a share of the machine's cores.
            memory_mib: Memory of a replica in MiB; 0 for no limit.
            cpus: CPUs of a replica, also parts of one; 0 for the server's default. A replica that
                is a process of the machine has so many threads, and is not held to them.
            gpus: GPUs of a replica for itself; 0 for the server's default.
            max_batch_size: Most rows of one batch; the server's default for a first deployment.
            start_timeout_s: Longest time from start to ready; likewise.
            warm_up: False to have no replica call the function before its first query, if a call
                is costly or changes something; likewise.
            on_event: Called with each step.
            progress: True to show each step on standard error, False not to. If None, they are
                shown on a terminal and in a notebook, unless `on_event` is given.

        Returns:
            The version; its `version` is the name that the server gave it.

        Warns:
            SkysailWarning: the version is not the current one, and `promote` is None.

        Raises:
            InvalidInput: the function cannot be pickled, or an argument is out of range.
            Unsupported: the cluster's container manager cannot give a replica such resources.
            ModelFailed: the function fails on the example.
            AlreadyExists: the version is registered with other content.
            FailedPrecondition: it is deployed with other resources or environment.
            DeployFailed: it could not be made ready; the message has the end of the replica's
                log, and nothing is left behind unless the version serves already.
        """
        if input_type is None:
            show_local_run(name, version, on_event, progress)
        # On a thread, because pickling and compressing take seconds, and the function may run an
        # event loop of its own.
        artifact = await asyncio.to_thread(
            build_artifact,
            function,
            example=example,
            examples=examples,
            input_type=input_type,
            requirements=read_requirements(pkgs_to_install, requirements),
            check=check,
            max_batch_size=max_batch_size,
        )
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
        )
        with show_events(name, version, on_event, progress) as see:
            found = await self.deploy_artifact(artifact, request, see)
        warn_if_not_current(found, promote, depth=1)
        return found

    async def deploy_artifact(
        self,
        artifact: Artifact,
        request: management_pb2.DeployRequest,
        on_event: OnEvent | None = None,
    ) -> Version:
        """Upload an artifact and deploy it as `request` says; see `deploy`."""
        request.artifact_sha256 = artifact.sha256
        retries = RetryPolicy()
        await self._upload(artifact, on_event, retries)
        try:
            return await self._await_deployment(request, on_event, retries)
        except ArtifactNotFound:
            # Management swept the artifact between the upload and now.
            await self._upload(artifact, on_event, retries)
            return await self._await_deployment(request, on_event, retries)

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
        gpus: int | None = None,
        max_batch_size: int | None = None,
        start_timeout_s: float | None = None,
        warm_up: bool | None = None,
        on_event: OnEvent | None = None,
        progress: bool | None = None,
    ) -> Version:
        """Start replicas of a registered version and return once they are ready.

        A version that was undeployed starts as it was deployed last, but for what is given; one
        that was scaled to 0 gets a replica; one that runs stays as it is.

        Args:
            model: Name of the model.
            version: Version; the current one if None.
            num_replicas: As for `deploy`.
            promote: True to make it the current version once it is ready.
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
            ModelNotFound: it is not registered.
            SkysailError: as `deploy`.
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

    async def _upload(
        self, artifact: Artifact, on_event: OnEvent | None, retries: RetryPolicy
    ) -> None:
        def on_sent(message: str) -> None:
            if on_event is not None:
                on_event(DeployEvent(UPLOADING, message, "", "", 0, 0))

        find = management_pb2.FindArtifactRequest(sha256=artifact.sha256)
        found = await self._call(
            lambda stub: stub.FindArtifact(find, timeout=self._timeout_s), retries=retries
        )
        if not found.is_stored:
            await self._call(
                lambda stub: stub.UploadArtifact(
                    upload_requests(artifact, on_sent), timeout=_UPLOAD_TIMEOUT_S
                ),
                retries=retries,
                limit_s=_UPLOAD_TIMEOUT_S,
            )

    async def _await_deployment(
        self, request: management_pb2.DeployRequest, on_event: OnEvent | None, retries: RetryPolicy
    ) -> Version:
        """Return the version once it is deployed, asked for again if the connection breaks."""
        while True:
            try:
                await self._consume_events(request, on_event, retries)
                break
            except (LostConnection, Unavailable) as error:
                # Management goes on with it; asked for the same again, it tells the rest.
                wait_s = retries.next_wait_s(error)
            # Outside, because the error holds the call, which must be gone before a fork.
            await asyncio.sleep(wait_s)
        return await self._describe(request.model, request.version, retries)

    async def _consume_events(
        self, request: management_pb2.DeployRequest, on_event: OnEvent | None, retries: RetryPolicy
    ) -> None:
        events = self._stream(lambda stub: stub.Deploy(request, timeout=_DEPLOY_TIMEOUT_S))
        async for message in events:
            retries.note_answer()
            event = DeployEvent.of(message)
            # The server may have named it; who asks again asks about the same.
            request.version = event.version
            if on_event is not None:
                on_event(event)
            if event.step == "FAILED":
                tail = f"\n{event.log_tail.rstrip()}" if event.log_tail else ""
                cause = _OF_REPLICA.sub("", event.message)
                error = DeployFailed(
                    f"cannot deploy {request.model}:{request.version}: {cause}{tail}"
                )
                error.log_tail = event.log_tail
                raise error
            if event.step == "DONE":
                return
        raise LostConnection(
            Unavailable(f"management at {self.endpoint} ended the stream of events")
        )

    async def scale(
        self,
        model: str,
        num_replicas: int,
        *,
        version: str | int | None = None,
        wait: bool = True,
        timeout_s: float = 120.0,
    ) -> Version:
        """Set the number of replicas of a deployed version, and end its autoscaling.

        Args:
            model: Name of the model.
            num_replicas: Replicas wanted; 0 is allowed.
            version: Version; the current one if None.
            wait: True to return once that many are ready and no others are left.
            timeout_s: Longest wait for that.

        Raises:
            InvalidInput: a number of replicas that is out of range.
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
            DeadlineExceeded: not all replicas were ready in time; they are still wanted.
        """
        request = scale_request(model, version, num_replicas)
        retries = RetryPolicy()
        response = await self._call(
            lambda stub: stub.Scale(request, timeout=self._timeout_s), retries=retries
        )
        end = MONOTONIC() + timeout_s
        while True:
            found = await self._describe(model, response.version, retries)
            if not wait or found.num_ready == len(found.replicas) == num_replicas:
                return found
            if MONOTONIC() > end:
                reasons = [
                    f"; {each.replica_id} {each.state}: {each.reason}"
                    for each in found.replicas
                    if each.reason and each.state != "READY"
                ]
                raise DeadlineExceeded(
                    f"{found.num_ready} of {num_replicas} replicas of '{model}:{found.version}' "
                    f"are ready after {timeout_s:g} s{''.join(reasons[:1])}"
                )
            await asyncio.sleep(_SCALE_CHECK_S)

    async def autoscale(
        self,
        model: str,
        *,
        min_replicas: int = 1,
        max_replicas: int,
        version: str | int | None = None,
    ) -> Version:
        """Scale a deployed version by its load, until `scale`.

        Args:
            model: Name of the model.
            min_replicas: Fewest replicas, at least 1.
            max_replicas: Most replicas.
            version: Version; the current one if None.

        Raises:
            InvalidInput: numbers of replicas that are out of range.
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
        """
        request = autoscaling_request(model, version, min_replicas, max_replicas)
        response = await self._call(
            lambda stub: stub.SetAutoscaling(request, timeout=self._timeout_s)
        )
        return await self.describe_version(model, response.version)

    async def undeploy(
        self, model: str, version: str | int | None = None, *, force: bool = False
    ) -> str:
        """Stop the replicas of a version, which stays registered, and return its name.

        Args:
            model: Name of the model.
            version: Version; the current one if None.
            force: True to do it although it is the current version, or an application is routed
                to it.

        Raises:
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
            ModelInUse: it is the current version, or an application is routed to it.
        """
        request = management_pb2.UndeployRequest(
            model=model, version="" if version is None else str(version), force=force
        )
        response = await self._call(
            lambda stub: stub.Undeploy(request, timeout=self._timeout_s), is_repeatable=False
        )
        return response.version

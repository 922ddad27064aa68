"""The descriptions of the replicas of one version; a replica is ready after it gave its own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_common.process.backoff import BackOff
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.replica_description import PackageDifference, ReplicaDescription
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container

log = logging.getLogger(__name__)

DescribeModel = Callable[[str, ModelVersion, str], Awaitable[ReplicaDescription]]
"""Asks the replica at an endpoint, of a version and an artifact, for its description."""

_RETRY_S = 0.1
_MAX_RETRY_S = 5.0
_MAX_ATTEMPTS = 3
"""Attempts after which a replica is ready without a description, if the version does not need it."""


class DescribedLoop(Protocol):
    """The loop of the version whose replicas are asked."""

    @property
    def artifact(self) -> str:
        """SHA-256 of the artifact of the version."""

    @property
    def needs_signature(self) -> bool:
        """True if the version has no signature until a replica has learned it."""

    async def described(
        self, container: Container, artifact_sha256: str, description: ReplicaDescription
    ) -> str:
        """Record a description, and return why the replica is unusable, or an empty text.

        Args:
            container: The container of the replica.
            artifact_sha256: The artifact of the version when the replica was asked.
            description: What the replica answered.

        Raises:
            SkysailError: the description cannot be recorded now.
        """

    def observe(self, container: Container) -> None:
        """Record a report about a container."""

    def reject(self, container_id: str, reason: str) -> None:
        """Stop a container as failed for good."""


class Descriptions:
    """The descriptions of the live replicas of one version, each asked once."""

    def __init__(
        self,
        version: ModelVersion,
        describe: DescribeModel,
        loop: DescribedLoop,
        tasks: BackgroundTasks,
    ) -> None:
        """Ask nothing yet; the owner of `tasks` stops them."""
        self._version = version
        self._describe = describe
        self._loop = loop
        self._tasks = tasks
        self._answers: dict[str, ReplicaDescription] = {}
        self._reports: dict[str, Container] = {}
        """The latest report about each container that is being asked."""

    @property
    def package_differences(self) -> tuple[PackageDifference, ...]:
        """Packages with other versions in a live replica, by name."""
        found = {each for answer in self._answers.values() for each in answer.package_differences}
        return tuple(sorted(found, key=lambda each: (each.package, each.installed_version)))

    def admit(self, container: Container, *, is_adopted: bool) -> Container:
        """Return a report as it counts: a replica is STARTING until it has described its model.

        Args:
            container: The report of the container manager.
            is_adopted: True if an earlier management started it; it may be answering queries.
        """
        name = container.container_id
        if not container.state.is_live:
            self.forget(name)
            return container
        is_asked = name in self._reports
        if is_asked:
            self._reports[name] = container
        if container.state is not ReplicaState.READY or name in self._answers:
            return container
        if not is_asked:
            self._reports[name] = container
            self._tasks.start(self._ask(container), f"describe {name}")
        if is_adopted and not self._loop.needs_signature:
            return container
        return replace(container, state=ReplicaState.STARTING)

    def forget(self, container_id: str) -> None:
        """Drop the answer of a replica that gets no more queries, and ask it no more."""
        self._answers.pop(container_id, None)
        self._reports.pop(container_id, None)

    async def _ask(self, container: Container) -> None:
        name = container.container_id
        back_off = BackOff(_RETRY_S, _MAX_RETRY_S)
        attempts = 0
        problem = ""
        description = ReplicaDescription()
        while name in self._reports:
            artifact = self._loop.artifact
            try:
                description = await self._describe(container.endpoint, self._version, artifact)
                problem = await self._loop.described(container, artifact, description)
                break
            except SkysailError as error:
                attempts += 1
                facts = {"container": name, "error": error.message}
                log.warning("replica not described", extra=facts)
                if attempts >= _MAX_ATTEMPTS and not self._loop.needs_signature:
                    break
            await asyncio.sleep(back_off.next_s())
        report = self._reports.pop(name, None)
        if report is None:
            return
        if problem:
            self._loop.reject(name, problem)
        else:
            self._answers[name] = description
            self._loop.observe(report)

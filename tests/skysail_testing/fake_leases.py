"""A Kubernetes lease in memory, and an alarm that raises instead of ending the process."""

import asyncio
import copy
from random import Random
from typing import Any

from skysail_common.errors import ContainerManagerUnavailable
from skysail_common.kubernetes.errors import ChangedMeanwhile, NotInCluster
from skysail_common.kubernetes.kinds import Kind
from skysail_testing.virtual_time import now


class FakeLeaseApi:
    """The part of `KubernetesApi` that `LeaderLease` uses; answers late or never on request."""

    def __init__(self, random: Random | None = None) -> None:
        self.lease: dict[str, Any] | None = {"metadata": {"name": "m", "resourceVersion": "1"}}
        self.error: Exception | None = None
        self.is_silent = False
        self.num_calls = 0
        self._random = random

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return self.lease.get("spec", {}).get("holderIdentity", "")

    def change(self, **spec: Any) -> None:
        """Change the lease as another client."""
        assert self.lease is not None
        version = str(int(self.lease["metadata"]["resourceVersion"]) + 1)
        self.lease = {
            "metadata": {**self.lease["metadata"], "resourceVersion": version},
            "spec": {**self.lease.get("spec", {}), **spec},
        }

    async def get(self, kind: Kind, name: str) -> dict[str, Any]:
        await self._way()
        if self.lease is None:
            raise NotInCluster(f"leases {name!r} not found")
        found = copy.deepcopy(self.lease)
        await self._way()
        return found

    async def replace(self, manifest: dict[str, Any]) -> dict[str, Any]:
        await self._way()
        if self.lease is None:
            raise NotInCluster("not found")
        if manifest["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ChangedMeanwhile("the object has been modified")
        self.change(**manifest["spec"])
        found = copy.deepcopy(self.lease)
        await self._way()
        return found

    async def _way(self) -> None:
        """Simulate one direction of the network between a candidate and the cluster."""
        self.num_calls += 1
        if self.is_silent:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        if self._random is not None:
            luck = self._random.random()
            await asyncio.sleep(self._random.choice((0.01, 0.5, 3.0, 20.0)) * luck)
            if luck < 0.1:
                raise ContainerManagerUnavailable("the connection broke")


class Ended(BaseException):
    """The simulated end of the process."""


class FakeAlarm:
    """An alarm that records until when the process may live."""

    def __init__(self) -> None:
        self.until = 0.0
        self.why = ""

    @property
    def is_on(self) -> bool:
        """Whether the process leads and lives."""
        return now() < self.until

    def arm(self, after_s: float) -> None:
        if 0 < self.until <= now():
            # A real alarm would have ended the process by now.
            self.end("too late")
        self.until = now() + after_s

    def disarm(self) -> None:
        self.until = 0.0

    def end(self, why: str) -> None:
        self.until = 0.0
        self.why = why
        raise Ended(why)

"""Calls that change the number of replicas: scale, autoscale and undeploy."""

import asyncio

from skysail.arguments import checked
from skysail.calls.deployment_requests import autoscaling_request, scale_request
from skysail.calls.models import ModelCalls
from skysail.calls.retries import RetryPolicy
from skysail.descriptions import Version
from skysail_common.clock import MONOTONIC
from skysail_common.errors import DeadlineExceeded
from skysail_protos.v1 import management_pb2

_SCALE_CHECK_S = 0.1


@checked
class ScalingCalls(ModelCalls):
    """Calls about the number of replicas."""

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
            num_replicas: Number of replicas; 0 is allowed.
            version: Version; the current one if None.
            wait: True to return once exactly that many replicas are left and ready.
            timeout_s: Longest wait, in seconds.

        Raises:
            InvalidInput: the number of replicas is out of range.
            ModelNotFound: the version is not registered.
            FailedPrecondition: the version is not deployed.
            DeadlineExceeded: not all replicas were ready in time; the cluster keeps starting them.
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
        """Scale a deployed version by its load, until `scale` sets a number again.

        Args:
            model: Name of the model.
            min_replicas: Fewest replicas, at least 1.
            max_replicas: Most replicas.
            version: Version; the current one if None.

        Raises:
            InvalidInput: a number of replicas is out of range.
            ModelNotFound: the version is not registered.
            FailedPrecondition: the version is not deployed.
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
            force: True to stop a version that is current, or that an application is routed to.

        Raises:
            ModelNotFound: the version is not registered.
            FailedPrecondition: the version is not deployed.
            ModelInUse: the version is current, or an application is routed to it.
        """
        request = management_pb2.UndeployRequest(
            model=model, version="" if version is None else str(version), force=force
        )
        response = await self._call(
            lambda stub: stub.Undeploy(request, timeout=self._timeout_s), is_repeatable=False
        )
        return response.version

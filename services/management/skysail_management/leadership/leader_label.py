"""The label of the leader's pod, which the Service of management selects."""

import asyncio
import contextlib
import logging

from skysail_common.errors import SkysailError
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotInCluster
from skysail_common.kubernetes.kinds import POD
from skysail_common.kubernetes.labels import LEADER, labels
from skysail_common.process.backoff import BackOff

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 5.0
_LOOK_EVERY_S = 5.0
_REMOVAL_S = 2.0


class LeaderLabel:
    """Keeps the leader label on one pod of a cluster."""

    def __init__(self, api: KubernetesApi, cluster: str, pod: str) -> None:
        """Create an idle label.

        Args:
            api: The Kubernetes cluster, in the namespace of the pods.
            cluster: Name of the Skysail cluster.
            pod: The pod of this management; empty outside of a pod, where nothing is done.
        """
        self._api = api
        self._labels = {**labels(cluster, "management"), LEADER: "true"}
        self._pod = pod

    async def keep(self) -> None:
        """Keep the label on the own pod and on no other until this is cancelled.

        Someone may remove the label, and a request of a former leader may arrive late. With no
        label or two, the Service leads nowhere or to a standby.
        """
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            try:
                if self._pod:
                    await self._move()
            except SkysailError as error:
                log.warning("leader label not set", extra={"error": error.message})
                await asyncio.sleep(back_off.next_s())
            else:
                back_off.reset()
                await asyncio.sleep(_LOOK_EVERY_S)

    async def _move(self) -> None:
        marked = {pod["metadata"]["name"] for pod in await self._api.list(POD, self._labels)}
        for pod in marked - {self._pod}:
            # A killed or disconnected pod may still have the label.
            await self._set(pod, None)
        if self._pod not in marked:
            await self._set(self._pod, "true")

    async def remove(self) -> None:
        """Remove the label from the own pod, if Kubernetes answers soon."""
        if not self._pod:
            return
        try:
            await asyncio.wait_for(self._set(self._pod, None), _REMOVAL_S)
        except (SkysailError, asyncio.TimeoutError) as error:
            log.warning("leader label not removed", extra={"error": str(error) or "no answer"})

    async def _set(self, pod: str, value: str | None) -> None:
        with contextlib.suppress(NotInCluster):
            await self._api.patch(POD, pod, {"metadata": {"labels": {LEADER: value}}})

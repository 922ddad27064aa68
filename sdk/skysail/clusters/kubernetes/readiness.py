"""Wait for the services of a cluster on Kubernetes, with the reason of each pod that is not ready."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timezone

from skysail.clusters.base import Progress
from skysail_common.clock import Clock
from skysail_common.errors import SkysailError
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotAllowed
from skysail_common.kubernetes.kinds import POD, Kind, Object
from skysail_common.kubernetes.labels import COMPONENT, INSTALLER, LEADER, MODEL_SERVER, PROBE
from skysail_common.kubernetes.pod_problems import is_lasting, problem_of
from skysail_common.process.child_process import StartFailed

_SERVICES = ("management", "frontend", "store")
_WORKLOADS = (Kind("apps/v1", "Deployment"), Kind("apps/v1", "StatefulSet"))
_EVENT = Kind("v1", "Event")
_START_TIMEOUT_S = 180.0
_LASTING_S = 60.0
"""Time for which a pod may lack its image or a Secret, so that either can arrive."""
_CHECK_S = 0.5
_EVENTS_EVERY_S = 5.0
_LOG_TAIL_LINES = 20
_NO_LOG = "unable to retrieve container logs"


class Readiness:
    """The observed pods of one cluster during its start."""

    def __init__(
        self,
        api: KubernetesApi,
        labels: Mapping[str, str],
        progress: Progress,
        clock: Clock,
    ) -> None:
        """Starts without observed pods.

        Args:
            api: The Kubernetes cluster, opened.
            labels: Labels of the cluster.
            progress: Called once for each pod and reason to wait.
            clock: Clock of the timeouts.
        """
        self._api = api
        self._labels = labels
        self._progress = progress
        self._clock = clock
        self._told: set[tuple[str, str]] = set()
        self._lasting_since: dict[str, float] = {}
        self._warnings: dict[str, str] = {}
        """Last warning event of each pod, by uid."""
        self._warnings_at = clock() - _EVENTS_EVERY_S

    async def wait(self) -> None:
        """Return once every service is rolled out, and one management leads.

        Raises:
            StartFailed: the services are not ready in time, or a pod lacks its image or a Secret for
                a minute; the message names each pod with its reason.
            ContainerManagerUnavailable: Kubernetes does not answer.
        """
        begin = self._clock()
        while True:
            pods = await self._pods()
            await self._report(pods)
            if await self._is_complete(pods):
                return
            waited_s = self._clock() - begin
            if waited_s >= _START_TIMEOUT_S or self._is_hopeless():
                raise StartFailed(
                    f"the cluster is not ready after {waited_s:.0f} s{await self._problems(pods)}"
                )
            await asyncio.sleep(_CHECK_S)

    async def _pods(self) -> list[Object]:
        """Return the pods of the manifests, without those that end or have ended."""
        return [
            pod
            for pod in await self._api.list(POD, self._labels)
            if pod["metadata"]["labels"].get(COMPONENT) not in (MODEL_SERVER, INSTALLER, PROBE)
            and "deletionTimestamp" not in pod["metadata"]
            and pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")
        ]

    async def _report(self, pods: list[Object]) -> None:
        if any(not is_ready(pod) and not problem_of(pod) for pod in pods):
            await self._read_warnings()
        lasting = {}
        for pod in pods:
            name = pod["metadata"]["name"]
            state = "ready" if is_ready(pod) else self._reason(pod)
            if state == "ready":
                # A pod that fails after it was ready is reported again.
                self._told = {each for each in self._told if each[0] != name or each[1] == state}
            if state and (name, state) not in self._told:
                self._told.add((name, state))
                self._progress(f"{name}: {state}")
            if state != "ready" and is_lasting(pod, state):
                lasting[name] = self._lasting_since.get(name, self._clock())
        self._lasting_since = lasting

    def _reason(self, pod: Object) -> str:
        return problem_of(pod) or self._warnings.get(pod["metadata"].get("uid", ""), "")

    def _is_hopeless(self) -> bool:
        return any(self._clock() - since >= _LASTING_S for since in self._lasting_since.values())

    async def _read_warnings(self) -> None:
        """Read the events of pods, which name causes that the status lacks, such as a missing Secret."""
        if self._clock() - self._warnings_at < _EVENTS_EVERY_S:
            return
        self._warnings_at = self._clock()
        try:
            events = await self._api.list(_EVENT, {})
        except NotAllowed:
            return
        # Warnings about probes are ignored, because probes fail during every start.
        warnings = [
            each
            for each in events
            if each.get("type") == "Warning" and each.get("reason", "").startswith("Failed")
        ]
        for event in sorted(warnings, key=_seen_at):
            reason, message = event.get("reason", ""), event.get("message", "")
            uid = event.get("involvedObject", {}).get("uid", "")
            self._warnings[uid] = " ".join(f"{reason}: {message}".split())

    async def _is_complete(self, pods: list[Object]) -> bool:
        services = [pod for pod in pods if pod["metadata"]["labels"].get(COMPONENT) in _SERVICES]
        is_led = any(is_ready(pod) and LEADER in pod["metadata"]["labels"] for pod in services)
        if not is_led or not all(map(is_ready, services)):
            return False
        for kind in _WORKLOADS:
            for found in await self._api.list(kind, self._labels):
                is_service = found["metadata"]["labels"].get(COMPONENT) in _SERVICES
                if is_service and not _is_rolled_out(found):
                    return False
        return True

    async def _problems(self, pods: list[Object]) -> str:
        lines = []
        # Pods with a reason come first, because they block the others.
        for pod in sorted(pods, key=self._rank):
            if is_ready(pod):
                continue
            name = pod["metadata"]["name"]
            lines.append(f"{name}: {self._reason(pod) or _not_ready(pod)}")
            lines += [f"    {line}" for line in await self._log_tail(pod)]
        return "".join(f"\n  {line}" for line in lines)

    def _rank(self, pod: Object) -> tuple[bool, bool]:
        reason = self._reason(pod)
        return not is_lasting(pod, reason), not reason

    async def _log_tail(self, pod: Object) -> list[str]:
        container = pod["spec"]["containers"][0]["name"]
        for previous in (True, False):
            try:
                async with self._api.log(
                    pod["metadata"]["name"], container, _LOG_TAIL_LINES, previous=previous
                ) as lines:
                    found = [line.decode(errors="replace") async for line in lines]
            except SkysailError:
                continue
            # The kubelet sends an error text as the log of a container that the runtime has removed.
            if not found[:1] or not found[0].startswith(_NO_LOG):
                return found
        return []


def _seen_at(event: Object) -> datetime:
    text = event.get("lastTimestamp") or event.get("eventTime")
    if not text:
        return datetime.min.replace(tzinfo=timezone.utc)
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _not_ready(pod: Object) -> str:
    phase = pod.get("status", {}).get("phase", "")
    return "not ready" if phase in ("", "Running") else f"not ready, {phase.lower()}"


def _is_rolled_out(found: Object) -> bool:
    """Return whether all pods of a Deployment or a StatefulSet are updated and ready."""
    wanted, status = found["spec"].get("replicas", 1), found.get("status", {})
    is_seen = status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
    counts = (status.get("updatedReplicas", 0), status.get("readyReplicas", 0))
    return bool(is_seen and min(counts) >= wanted)


def is_ready(pod: Object) -> bool:
    """Return whether a pod takes calls."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

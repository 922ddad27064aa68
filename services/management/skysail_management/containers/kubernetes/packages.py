"""Packages of versions, installed once into a volume that all nodes share.

<claim>/<key>/     an environment, which the pods of replicas mount read-only at /packages/<key>

A separate pod installs them. A ConfigMap exists as long as the directory may exist, and records
whether it is complete. Labels identify both.
"""

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Collection

from skysail_common.errors import SkysailError
from skysail_common.kubernetes.anchor import anchor_name, owned_by
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import ClusterRefused
from skysail_common.kubernetes.kinds import CONFIG_MAP, POD, Object
from skysail_common.kubernetes.labels import INSTALLER, labels
from skysail_common.kubernetes.pod_problems import waiting_reason
from skysail_management.containers.base import Needed, PrepareFailed, Progress, VersionSpec
from skysail_management.containers.kubernetes import manifests, task_pods
from skysail_management.containers.kubernetes.images import KubernetesImages
from skysail_management.containers.requirements import (
    LOG_TAIL_LINES,
    install_error,
    local_files,
    normal_form,
    requirements_file,
)
from skysail_management.settings import ManagementSettings

log = logging.getLogger(__name__)

REQUIREMENTS = "SKYSAIL_REQUIREMENTS"
"""Variable of the installer with the text of the requirements file."""

_END_TIMEOUT_S = 120.0
_REMOVE_TIMEOUT_S = 180.0


class KubernetesPackages:
    """The environments in the volume of one cluster."""

    def __init__(
        self, api: KubernetesApi, settings: ManagementSettings, images: KubernetesImages
    ) -> None:
        """Create the table; `images` chooses the image of a version."""
        self._api = api
        self._settings = settings
        self._images = images
        self._labels = labels(settings.cluster, INSTALLER)
        self._locks: dict[str, asyncio.Lock] = {}

    def key(self, version: VersionSpec) -> str:
        """Return the name of the environment of a version; empty if it needs none."""
        if not version.requirements:
            return ""
        parts = [
            self._images.image(version),
            version.python_version.rpartition(".")[0],
            normal_form(version.requirements),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    async def prepare(
        self, version: VersionSpec, progress: Progress, *, verifies: bool = False
    ) -> None:
        """Install the packages of a version.

        With `verifies`, an installer checks the volume even if the ConfigMap says that it is
        complete, because someone may have emptied the volume.

        Raises:
            PrepareFailed: the installation failed, with the reason.
            ContainerManagerUnavailable: the Kubernetes cluster does not answer.
        """
        key = self.key(version)
        if not key:
            return
        if not self._settings.kubernetes_packages_claim:
            raise PrepareFailed(
                f"cannot install the packages of {version.model_version}: no volume for them is "
                "configured; set kubernetes-packages-claim to a claim, or docker-registry to a "
                "registry for images with the packages"
            )
        if files := local_files(version.requirements):
            raise PrepareFailed(
                f"cannot install {files[0]} for {version.model_version}: pods do not see this file; "
                "put it on a package index, or build images with the setting docker-registry"
            )
        async with self._locks.setdefault(key, asyncio.Lock()):
            is_recorded = await self._is_installed(key)
            if is_recorded and not verifies:
                progress(f"environment {key} is ready")
                return
            text = requirements_file(version.requirements)
            variables = {
                **self._settings.build_environment(),
                REQUIREMENTS: text,
                # Pods mount the volume read-only.
                "UV_COMPILE_BYTECODE": "1",
            }
            tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)

            def report(line: str) -> None:
                tail.append(line)
                progress(line)

            if not is_recorded:
                # The record precedes the installation, so that a sweep finds the files of a killed
                # installer.
                await self._api.apply(await self._record(key, text, is_installed=False))
            status = await self._run("install", key, variables, report, self._images.image(version))
            if status != 0:
                if is_recorded:
                    await self._api.apply(await self._record(key, text, is_installed=False))
                raise install_error(status, tail)
            if not is_recorded:
                await self._api.apply(await self._record(key, text, is_installed=True))

    async def _is_installed(self, key: str) -> bool:
        found = await self._api.list(CONFIG_MAP, self._labels)
        return any(
            each["data"].get("key") == key and each["data"].get("installed") == "true"
            for each in found
        )

    async def _record(self, key: str, requirements: str, *, is_installed: bool) -> Object:
        anchor = await self._api.get(CONFIG_MAP, anchor_name(self._settings.cluster))
        record: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._record_name(key), "labels": self._labels},
            "data": {
                "key": key,
                "requirements": requirements,
                "installed": "true" if is_installed else "false",
            },
        }
        return owned_by(anchor, record)

    def _record_name(self, key: str) -> str:
        return f"{anchor_name(self._settings.cluster)}-packages-{key}"

    async def _run(
        self,
        what: str,
        key: str,
        variables: dict[str, str],
        progress: Progress,
        image: str = "",
    ) -> int:
        """Run the installer in a separate pod, remove the pod, and return its exit status."""
        await self._stop_earlier_installer(key)
        name = f"skysail-{what}-{key}-{secrets.token_hex(2)}"
        path = f"{manifests.PACKAGES}/{key}"
        anchor = await self._api.get(CONFIG_MAP, anchor_name(self._settings.cluster))
        pod = task_pods.installer(name, [what, path], self._settings, image)
        secret = task_pods.installer_secret(name, variables, self._settings.cluster)
        try:
            made = await self._api.create(owned_by(anchor, pod))
            await self._api.apply(owned_by(made, secret))
            await self._api.patch(POD, name, [{"op": "remove", "path": "/spec/schedulingGates"}])
            await self._wait_for_start(name, progress)
            async with self._api.log(name, INSTALLER, 100_000, follow=True) as lines:
                async for line in lines:
                    progress(line.decode(errors="replace"))
            return await self._exit_status(name)
        except ClusterRefused as error:
            raise PrepareFailed(f"cannot install packages: {error.message}") from error
        finally:
            # The next sweep retries the removal.
            with contextlib.suppress(SkysailError):
                await self._api.delete(POD, name)

    async def _stop_earlier_installer(self, key: str) -> None:
        """Stop earlier installers of an environment, and return when they ended.

        Two installers would corrupt each other's files. A previous management may have left one,
        and a deleted one may still end.
        """
        for pod in await self._api.list(POD, self._labels):
            name = pod["metadata"]["name"]
            if f"-{key}-" not in name or _has_ended(pod):
                continue
            await self._api.delete(POD, name)
            try:
                await asyncio.wait_for(self._gone(name), _END_TIMEOUT_S)
            except asyncio.TimeoutError:
                raise PrepareFailed(
                    f"cannot install packages: the earlier pod {name} does not end; if its node is "
                    f"gone, remove the pod: kubectl -n {self._api.namespace} delete pod {name} --force"
                ) from None

    async def _gone(self, name: str) -> None:
        async with contextlib.aclosing(self._api.watch(POD, self._labels)) as changes:
            async for change in changes:
                is_told = any(each["metadata"]["name"] == name for each in change.objects)
                if (is_told and change.is_gone) or (change.listed is not None and not is_told):
                    return

    async def _wait_for_start(self, name: str, progress: Progress) -> None:
        told = ""
        # The cluster may have to add a node first.
        limit_s = self._settings.prepare_timeout_s

        def has_started(pod: Object) -> bool:
            nonlocal told
            reason = waiting_reason(pod)
            if reason and reason != told:
                progress(reason)
                told = reason
            return pod["status"]["phase"] not in ("Pending", "Unknown")

        try:
            await asyncio.wait_for(self._pod_until(name, has_started), limit_s)
        except asyncio.TimeoutError:
            why = f": {told}" if told else ""
            raise PrepareFailed(
                f"cannot install packages: no pod started within {limit_s:g} s{why}"
            ) from None

    async def _exit_status(self, name: str) -> int:
        try:
            pod = await asyncio.wait_for(self._pod_until(name, _has_ended), _END_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise PrepareFailed(f"cannot install packages: pod {name} does not end") from None
        ends = [each["state"] for each in pod["status"].get("containerStatuses", ())]
        if not ends or "terminated" not in ends[0]:
            reason = pod["status"].get("message") or "its pod was removed"
            raise PrepareFailed(f"cannot install packages: {reason}")
        return int(ends[0]["terminated"]["exitCode"])

    async def _pod_until(self, name: str, condition: Callable[[Object], bool]) -> Object:
        """Return a pod when the condition holds, or its last state when it was removed."""
        async with contextlib.aclosing(self._api.watch(POD, self._labels)) as changes:
            async for change in changes:
                for pod in change.objects:
                    if pod["metadata"]["name"] == name and (change.is_gone or condition(pod)):
                        return pod
        raise SkysailError(f"the watch of pod {name} ended")

    async def sweep(self, needed: Needed, used: Callable[[], Collection[str]]) -> None:
        """Remove environments that no version needs, and leftover installers.

        Args:
            needed: Returns the versions that need their environment.
            used: Returns the environments that pods mount, including those of an earlier Skysail.
        """

        def is_needed(key: str) -> bool:
            return key in used() or any(key == self.key(version) for version in needed())

        for record in await self._api.list(CONFIG_MAP, self._labels):
            key = record["data"].get("key", "")
            lock = self._locks.setdefault(key, asyncio.Lock())
            if not key or is_needed(key) or lock.locked():
                continue
            async with lock:
                if is_needed(key):
                    # A version needs it by now.
                    continue
                try:
                    await asyncio.wait_for(self._remove(record), _REMOVE_TIMEOUT_S)
                except (PrepareFailed, asyncio.TimeoutError) as error:
                    # The next sweep retries.
                    log.warning(
                        "packages not removed",
                        extra={"environment": key, "error": str(error) or "it takes too long"},
                    )
        if not any(lock.locked() for lock in self._locks.values()):
            for pod in await self._api.list(POD, self._labels):
                await self._api.delete(POD, pod["metadata"]["name"])

    async def _remove(self, record: Object) -> None:
        key, requirements = record["data"]["key"], record["data"]["requirements"]
        # A partly removed environment is never used, and its record stays until all of it is gone.
        await self._api.apply(await self._record(key, requirements, is_installed=False))
        status = await self._run("remove", key, {}, lambda line: None)
        if status != 0:
            raise PrepareFailed(f"its installer ended with status {status}")
        await self._api.delete(CONFIG_MAP, record["metadata"]["name"])


def _has_ended(pod: Object) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")

"""Images of the model server on Kubernetes, chosen by the Python that a version needs.

A pickle loads on the minor version of Python that wrote it. Before the first replica of an image
starts, a pod of that image reports its Python. A ConfigMap stores the reports, and the image of
each version. If the image of the settings cannot run a version, or cannot be pulled, the version
keeps its earlier image.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import secrets

from skysail_common.errors import SkysailError
from skysail_common.kubernetes.anchor import anchor_name, owned_by
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotInCluster
from skysail_common.kubernetes.kinds import CONFIG_MAP, POD, Object
from skysail_common.kubernetes.labels import PROBE, labels
from skysail_common.kubernetes.pod_problems import waiting_reason
from skysail_management.containers.base import Needed, PrepareFailed, Progress, VersionSpec
from skysail_management.containers.kubernetes import task_pods
from skysail_management.containers.replica_launch import (
    can_run,
    check_python,
    image_kept,
    python_minor,
)
from skysail_management.settings import ManagementSettings

log = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 30.0


class KubernetesImages:
    """The images of the model server that a cluster uses or used, with the Python of each."""

    def __init__(self, api: KubernetesApi, settings: ManagementSettings) -> None:
        """Create an empty table; `open` fills it."""
        self._api = api
        self._settings = settings
        self._labels = labels(settings.cluster, PROBE)
        self._pythons: dict[str, str] = {}
        """Python of each image, such as 3.11.7."""
        self._versions: dict[str, str] = {}
        """Image of each version and artifact, while it runs or after it ran."""
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Read the table of an earlier management, and remove its probes.

        Raises:
            ContainerManagerUnavailable: Kubernetes does not answer.
        """
        with contextlib.suppress(NotInCluster, ValueError, KeyError, TypeError):
            data = (await self._api.get(CONFIG_MAP, self._table_name))["data"]
            pythons, versions = (dict(json.loads(data[name])) for name in ("pythons", "versions"))
            self._pythons, self._versions = pythons, versions
        for pod in await self._api.list(POD, self._labels):
            await self._api.delete(POD, pod["metadata"]["name"])

    def image(self, version: VersionSpec) -> str:
        """Return the image for replicas of a version.

        The result is the image of the settings if it can run the version, otherwise the earlier
        image of the version, if it has one.
        """
        configured = self._settings.kubernetes_image
        if self._can_run(configured, version):
            return configured
        own = self._versions.get(_key(version), configured)
        return own if self._can_run(own, version) else configured

    def _can_run(self, image: str, version: VersionSpec) -> bool:
        found = self._pythons.get(image, "")
        return bool(found) and can_run(found, version)

    async def prepare(self, version: VersionSpec, progress: Progress) -> None:
        """Find an image that can run the version, with a probe if necessary.

        Raises:
            PrepareFailed: no image can run it, or the image of the settings does not start.
            ContainerManagerUnavailable: Kubernetes does not answer.
        """
        configured = self._settings.kubernetes_image
        async with self._lock:
            if configured not in self._pythons:
                try:
                    self._pythons[configured] = await self._probe(configured, progress)
                except PrepareFailed as error:
                    # A version with an earlier image need not wait for another image.
                    if self.image(version) == configured:
                        raise
                    log.warning("image not usable", extra={"reason": error.message})
            image = self.image(version)
            if image == configured:
                check_python(
                    version,
                    self._pythons[configured],
                    f"the image {configured} has",
                    "name an image with Python {} in the setting kubernetes-image",
                )
                if self._versions.get(_key(version)) != image:
                    self._versions[_key(version)] = image
                    await self._save()
                return
        text = image_kept(version, image, configured, self._pythons.get(configured, "unknown"))
        log.warning("version keeps its image", extra={"reason": text})
        progress(text)

    async def sweep(self, needed: Needed) -> None:
        """Drop the images of versions that no longer need one."""
        async with self._lock:
            wanted = set(map(_key, needed()))
            versions = {each: image for each, image in self._versions.items() if each in wanted}
            if versions == self._versions:
                return
            self._versions = versions
            used = {self._settings.kubernetes_image, *versions.values()}
            self._pythons = {
                image: python for image, python in self._pythons.items() if image in used
            }
            await self._save()

    async def _save(self) -> None:
        anchor = await self._api.get(CONFIG_MAP, anchor_name(self._settings.cluster))
        table = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._table_name, "labels": self._labels},
            "data": {
                "pythons": json.dumps(self._pythons),
                "versions": json.dumps(self._versions),
            },
        }
        await self._api.apply(owned_by(anchor, table))

    @property
    def _table_name(self) -> str:
        return f"{anchor_name(self._settings.cluster)}-packages-images"

    async def _probe(self, image: str, progress: Progress) -> str:
        """Return the Python of an image, which a pod of that image prints."""
        digest = hashlib.sha256(image.encode()).hexdigest()[:10]
        name = f"skysail-python-{digest}-{secrets.token_hex(2)}"
        anchor = await self._api.get(CONFIG_MAP, anchor_name(self._settings.cluster))
        reported = ""

        async def pod_end() -> Object:
            nonlocal reported
            async with contextlib.aclosing(self._api.watch(POD, self._labels)) as changes:
                async for change in changes:
                    for pod in change.objects:
                        if pod["metadata"]["name"] != name:
                            continue
                        if change.is_gone or pod["status"].get("phase") in ("Succeeded", "Failed"):
                            return pod
                        if (reason := waiting_reason(pod)) and reason != reported:
                            reported = reason
                            progress(reason)
            raise SkysailError(f"the watch of pod {name} ended")

        try:
            await self._api.create(owned_by(anchor, task_pods.probe(name, image, self._settings)))
            pod = await asyncio.wait_for(pod_end(), _PROBE_TIMEOUT_S)
            if pod["status"].get("phase") != "Succeeded":
                raise PrepareFailed(f"cannot find the Python of image {image}: its pod failed")
            async with self._api.log(name, PROBE, 1) as lines:
                text = b"".join([line async for line in lines]).decode(errors="replace").strip()
        except asyncio.TimeoutError:
            why = reported or f"its pod did not end within {_PROBE_TIMEOUT_S:g} s"
            raise PrepareFailed(f"cannot find the Python of image {image}: {why}") from None
        finally:
            # The next `open` retries the removal.
            with contextlib.suppress(SkysailError):
                await self._api.delete(POD, name, grace_s=0)
        if not python_minor(text):
            raise PrepareFailed(f"image {image} has no Python: it printed {text[:80]!r}")
        return text


def _key(version: VersionSpec) -> str:
    # The same name may have another artifact later.
    return f"{version.model_version}/{version.artifact_sha256}"

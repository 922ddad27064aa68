"""Images of versions: the model server, the packages of the version, its artifact.

    <base>                               setting docker-image; see services/Dockerfile
      └─ <repository>:packages-<hash>    shared by versions with the same requirements
           └─ <repository>:files-<hash>  shared by versions with the same large files
                └─ <repository>:version-<hash>

Large files are in no image if replicas can mount them from the store of management.

The hash covers all inputs, so that an existing image is the right one. With a registry, each image
is looked up there before it is built, and pushed afterwards.
"""

import asyncio
import hashlib
import logging
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from skysail_common.docker import labels as docker_labels
from skysail_common.docker.engine import (
    DockerEngine,
    EngineRefused,
    NotOnEngine,
    lines_of,
)
from skysail_common.errors import ContainerManagerUnavailable, SkysailError
from skysail_common.process.threads import in_thread
from skysail_management.containers.base import Needed, PrepareFailed, Progress, VersionSpec
from skysail_management.containers.docker import options as docker_options
from skysail_management.containers.docker.build_context import BuildContext, archive
from skysail_management.containers.docker.image_tags import (
    FILES,
    MOUNTED,
    PYTHON,
    BaseImage,
    ImageTags,
    files_tag,
    has_python_of,
    packages_tag,
)
from skysail_management.containers.docker.registry import Registry
from skysail_management.containers.docker.version_files import (
    VersionFiles,
    mounts_of,
    version_files,
)
from skysail_management.containers.replica_launch import image_kept, wrong_python
from skysail_management.containers.requirements import (
    LOG_TAIL_LINES,
    install_error,
)
from skysail_management.settings import ManagementSettings

log = logging.getLogger(__name__)


class VersionImages:
    """Builds, finds and removes the images of the versions of one cluster on one engine."""

    def __init__(self, marks: Mapping[str, str], settings: ManagementSettings) -> None:
        """Label images with `marks`, by which they are found again."""
        self._marks = dict(marks)
        self._settings = settings
        # The long timeout is for a large layer, which the engine writes silently.
        self._engine = DockerEngine(settings.docker_host, settings.prepare_timeout_s)
        name = re.sub(r"[^a-z0-9]+", "-", settings.cluster.lower())
        owner = hashlib.sha256("\n".join(sorted(marks.values())).encode()).hexdigest()[:8]
        self._repository = f"skysail-{name}-{owner}"
        self._remote = f"{settings.docker_registry}/skysail-{name}"
        self._registry = Registry(self._engine, settings)
        self._locks: dict[str, asyncio.Lock] = {}
        self._prepared: dict[VersionSpec, docker_options.PreparedImage] = {}
        # An image that others pull must hold all files.
        mounts_files = settings.docker_mount_files and not settings.docker_registry
        self._tags = ImageTags(mounts_files=mounts_files)
        self._artifacts = settings.data_dir / "artifacts"

    async def open(self) -> None:
        """Remove the containers of interrupted builds."""
        mine = {"name": [f"^/{self._repository}-build-"]}
        for found in await self._engine.do(
            lambda client: client.containers(all=True, filters=mine)
        ):
            await self._remove_container(found["Id"])

    async def close(self) -> None:
        """Close the connection to the engine."""
        await self._engine.close()

    def image(self, version: VersionSpec) -> docker_options.PreparedImage:
        """Return the prepared image of a version.

        Raises:
            SkysailError: no image is prepared.
        """
        try:
            return self._prepared[version]
        except KeyError:
            raise SkysailError(f"no image of {version.model_version} is prepared") from None

    def pushed_image(self, version: VersionSpec) -> str:
        """Return the name of the prepared image in the registry; errors as for `image`."""
        return self._remote_name(self.image(version).name.rpartition(":")[2])

    async def prepare(self, version: VersionSpec, progress: Progress) -> None:
        """Build the image of the version, unless it exists.

        Raises:
            PrepareFailed: the image cannot be built, or not pushed to the registry.
            ContainerManagerUnavailable: the engine does not answer.
        """
        try:
            base = await self._base(progress)
            if not has_python_of(base.labels, version):
                self._prepared[version] = await self._find_earlier(base, version, progress)
                return
            tag = self._tags.version(base, version)
            await self._provide(tag, progress, lambda: self._build(base, version, tag, progress))
            self._prepared[version] = await self._with_mounts(self._name(tag), version)
        except EngineRefused as error:
            raise PrepareFailed(f"cannot build the image: {error.message}") from error

    async def _with_mounts(self, name: str, version: VersionSpec) -> docker_options.PreparedImage:
        """Return an image with the mounts of the files that it lacks by its label."""
        if docker_labels.own_labels((await self._inspect(name)).labels).get(FILES) != MOUNTED:
            return docker_options.PreparedImage(name)
        with TemporaryDirectory() as directory:
            files = await in_thread(version_files, self._artifacts, version, Path(directory))
        return docker_options.PreparedImage(name, mounts_of(files.large))

    async def _find_earlier(
        self, base: BaseImage, version: VersionSpec, progress: Progress
    ) -> docker_options.PreparedImage:
        """Return the earlier image of a version whose Python the present base does not have.

        Raises:
            PrepareFailed: no such image exists.
        """
        marks = {**self._marks, "artifact": version.artifact_sha256}
        mine = docker_labels.label_filter(marks)
        for image in await self._engine.do(
            lambda client: client.images(self._repository, filters=mine)
        ):
            names = [
                str(name)
                for name in image["RepoTags"] or ()
                if str(name).startswith(self._name("version-"))
            ]
            if names and has_python_of(image["Labels"] or {}, version):
                name = names[0]
                text = image_kept(version, name, self._settings.docker_image, base.labels[PYTHON])
                log.warning("version keeps an earlier image", extra={"reason": text})
                progress(text)
                return await self._with_mounts(name, version)
        raise wrong_python(
            version,
            base.labels[PYTHON],
            f"the image {self._settings.docker_image} has",
            "name an image with Python {} in the setting docker-image",
        )

    async def _build(
        self, base: BaseImage, version: VersionSpec, tag: str, progress: Progress
    ) -> None:
        if version.requirements:
            packages = packages_tag(base, version)
            await self._provide(
                packages, progress, lambda: self._install(base, version, packages, progress)
            )
            base = await self._inspect(self._name(packages))
        with TemporaryDirectory(prefix="image-", dir=self._settings.data_dir) as directory:
            files = await in_thread(version_files, self._artifacts, version, Path(directory))
            await self._add_artifact(base, version, files, tag, progress)
        progress(f"image {self._name(tag)} built")

    async def sweep(self, needed: Needed) -> None:
        """Remove images that no version needs and no container uses."""
        kept = set(needed())
        self._prepared = {
            version: image for version, image in self._prepared.items() if version in kept
        }
        try:
            base = await self._inspect(self._settings.docker_image)
        except NotOnEngine:
            # The needed images are unknown without the base image.
            return
        own = await self._engine.do(lambda client: client.images(self._repository))
        found = {
            name.rpartition(":")[2]: image["Labels"] or {}
            for image in own
            for name in image["RepoTags"] or ()
        }
        for tag in found:
            lock = self._locks.setdefault(tag, asyncio.Lock())
            if tag in self._tags.needed(found, base, needed()) or lock.locked():
                continue
            async with lock:
                # A version may need it by now; a version that comes later builds it again.
                if tag not in self._tags.needed(found, base, needed()):
                    await self._remove_image(self._name(tag))
                    await self._remove_image(self._remote_name(tag))

    async def _provide(
        self, tag: str, progress: Progress, make: Callable[[], Awaitable[None]]
    ) -> None:
        """Provide an image with this tag: an existing one, one of the registry, or a new one."""
        async with self._locks.setdefault(tag, asyncio.Lock()):
            if await self._exists(self._name(tag)):
                progress(f"image {self._name(tag)} is ready")
            elif not await self._pull(tag, progress):
                await make()
            await self._push(tag, progress)

    async def _pull(self, tag: str, progress: Progress) -> bool:
        name = self._remote_name(tag)
        if not self._settings.docker_registry or not await self._registry.pull(name, progress):
            return False
        await self._engine.do(lambda client: client.tag(name, self._repository, tag))
        return True

    async def _push(self, tag: str, progress: Progress) -> None:
        name = self._remote_name(tag)
        if not self._settings.docker_registry or await self._exists(name):
            return
        # The push needs a local tag with the name in the registry.
        await self._engine.do(lambda client: client.tag(self._name(tag), self._remote, tag))
        is_pushed = False
        try:
            await self._registry.push(name, progress)
            is_pushed = True
        finally:
            if not is_pushed:
                await self._remove_image(name)

    async def _install(
        self, base: BaseImage, version: VersionSpec, tag: str, progress: Progress
    ) -> None:
        context = BuildContext(
            version.requirements,
            self._settings.build_environment(),
            self._settings.data_dir.resolve() / "artifacts" / "blobs",
        )
        config = docker_options.install_config(base.image_id, self._settings)
        async with self._container(config) as container:
            await self._engine.do(
                lambda client: client.put_archive(
                    container, docker_options.BUILD_DIRECTORY, context.archive()
                )
            )
            await self._engine.do(lambda client: client.start(container))
            tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
            async with self._engine.stream(
                lambda client: client.logs(container, stream=True, follow=True)
            ) as chunks:
                async for line in lines_of(chunks):
                    tail.append(line)
                    progress(line)
            status = (await self._engine.do(lambda client: client.wait(container)))["StatusCode"]
            if status != 0:
                raise install_error(status, tail)
            await self._commit(
                container, tag, docker_options.image_config(base.config, self._marks)
            )

    async def _add_artifact(
        self,
        base: BaseImage,
        version: VersionSpec,
        files: VersionFiles,
        tag: str,
        progress: Progress,
    ) -> None:
        marks = {
            **self._marks,
            "model": version.model_version.model_name,
            "version": version.model_version.version,
            "artifact": version.artifact_sha256,
        }
        variable = f"SKYSAIL_MODEL_SERVER_ARTIFACT_DIR={docker_options.ARTIFACT}"
        if files.large and self._tags.mounts_files:
            marks[FILES] = MOUNTED
        elif files.large:
            shared = marks[FILES] = files_tag(base, files.large_names)
            await self._provide(
                shared,
                progress,
                lambda: self._add_files(base, files.large, shared, self._marks),
            )
            base = await self._inspect(self._name(shared))
        await self._add_files(base, files.small, tag, marks, [variable])

    async def _add_files(
        self,
        base: BaseImage,
        files: Mapping[str, Path],
        tag: str,
        marks: Mapping[str, str],
        environment: Sequence[str] = (),
    ) -> None:
        async with self._container({"Image": base.image_id}) as container:
            await self._engine.do(lambda client: client.put_archive(container, "/", archive(files)))
            await self._commit(
                container, tag, docker_options.image_config(base.config, marks, environment)
            )

    @asynccontextmanager
    async def _container(self, config: dict[str, Any]) -> AsyncIterator[str]:
        name = f"{self._repository}-build-{secrets.token_hex(4)}"
        try:
            await self._engine.do(lambda client: client.create_container_from_config(config, name))
            yield name
        finally:
            await self._remove_container(name)

    async def _remove_container(self, name: str) -> None:
        try:
            await self._engine.do(lambda client: client.remove_container(name, v=True, force=True))
        except (EngineRefused, ContainerManagerUnavailable):
            # The next `open` removes remains.
            return

    async def _commit(self, container: str, tag: str, config: dict[str, Any]) -> None:
        await self._engine.do(
            lambda client: client.commit(container, self._repository, tag, conf=config)
        )

    async def _base(self, progress: Progress) -> BaseImage:
        image = self._settings.docker_image
        try:
            return await self._inspect(image)
        except NotOnEngine:
            progress(f"pulling {image}")
        reason = "the registry does not have it"
        try:
            if await self._registry.pull(image, progress):
                return await self._inspect(image)
        except PrepareFailed as error:
            reason = error.message
        raise PrepareFailed(
            f"cannot find the image {image} on the engine ({reason}); build it with 'make images', "
            "or name another image in the setting docker-image"
        )

    async def _inspect(self, image: str) -> BaseImage:
        found = await self._engine.do(lambda client: client.inspect_image(image))
        return BaseImage(found["Id"], found["Config"])

    async def _exists(self, image: str) -> bool:
        try:
            await self._inspect(image)
        except NotOnEngine:
            return False
        return True

    async def _remove_image(self, image: str) -> None:
        try:
            await self._engine.do(lambda client: client.remove_image(image))
        except EngineRefused:
            # A container uses the image, or the image is gone.
            return

    def _name(self, tag: str) -> str:
        return f"{self._repository}:{tag}"

    def _remote_name(self, tag: str) -> str:
        return f"{self._remote}:{tag}"

"""Transfers of images between the engine and a registry."""

from collections.abc import Callable, Iterable
from typing import Any

from skysail_common.docker.engine import DockerEngine, EngineRefused, NotOnEngine
from skysail_management.containers.base import PrepareFailed, Progress
from skysail_management.settings import ManagementSettings


class Registry:
    """Pulls and pushes images by names that include the registry."""

    def __init__(self, engine: DockerEngine, settings: ManagementSettings) -> None:
        """Log in as the user of the settings, or as `docker login` did."""
        self._engine = engine
        user = settings.docker_registry_user
        password = settings.docker_registry_password.get_secret_value()
        self._login = {"username": user, "password": password} if user else None

    async def pull(self, image: str, progress: Progress) -> bool:
        """Pull an image; return False if the registry does not have it.

        Raises:
            PrepareFailed: the registry does not answer, or refuses.
        """
        try:
            await self._transfer(lambda client: client.pull, image, progress)
        except NotOnEngine:
            return False
        except EngineRefused as error:
            raise PrepareFailed(f"cannot pull {image}: {error.message}") from error
        return True

    async def push(self, image: str, progress: Progress) -> None:
        """Push an image to its registry.

        Raises:
            PrepareFailed: the registry does not answer, or refuses.
        """
        try:
            await self._transfer(lambda client: client.push, image, progress)
        except EngineRefused as error:
            raise PrepareFailed(f"cannot push {image}: {error.message}") from error

    async def _transfer(
        self,
        method: Callable[[Any], Callable[..., Iterable[dict[str, Any]]]],
        image: str,
        progress: Progress,
    ) -> None:
        async with self._engine.stream(
            lambda client: method(client)(image, stream=True, decode=True, auth_config=self._login)
        ) as events:
            async for event in events:
                if "error" in event:
                    raise EngineRefused(event["error"])
                # Events that count the bytes of a layer are skipped.
                if "status" in event and not event.get("progressDetail"):
                    progress(" ".join([event.get("id", ""), event["status"]]).strip())

"""The model of ownership on a real server: its scripts decide as the store of the unit tests does."""

import tempfile
from pathlib import Path

from hypothesis import settings

from skysail_testing.examples import examples
from skysail_testing.ownership_machine import Ownership
from skysail_testing.store_servers import StoreServer, embedded_command
from skysail_testing.store_worlds import ServerWorld, StoreWorld


class OwnershipInValkey(Ownership):
    async def make_world(self) -> StoreWorld:
        self.directory = tempfile.TemporaryDirectory()
        self.server = StoreServer(embedded_command, Path(self.directory.name))
        await self.server.start()
        return ServerWorld(self.server)

    def teardown(self) -> None:
        super().teardown()
        self.server.stop()
        self.directory.cleanup()


TestOwnership = OwnershipInValkey.TestCase
TestOwnership.settings = settings(max_examples=examples(15), stateful_step_count=50, deadline=None)

"""The ownership model on a real server, whose scripts decide as the store of the unit tests."""

import tempfile
from pathlib import Path

from hypothesis import settings

from skysail_testing.controllable_servers import ControllableServer, ControllableStoreServer
from skysail_testing.examples import examples
from skysail_testing.ownership_machine import Ownership
from skysail_testing.store_servers import StoreServer, embedded_command


class OwnershipInValkey(Ownership):
    async def make_server(self) -> ControllableServer:
        self.directory = tempfile.TemporaryDirectory()
        self.process = StoreServer(embedded_command, Path(self.directory.name))
        await self.process.start()
        return ControllableStoreServer(self.process)

    def teardown(self) -> None:
        super().teardown()
        self.process.stop()
        self.directory.cleanup()


TestOwnership = OwnershipInValkey.TestCase
TestOwnership.settings = settings(max_examples=examples(15), stateful_step_count=50, deadline=None)

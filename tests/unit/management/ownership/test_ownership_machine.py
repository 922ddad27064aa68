from hypothesis import settings

from skysail_testing.controllable_servers import ControllableMemoryServer, ControllableServer
from skysail_testing.examples import examples
from skysail_testing.ownership_machine import Ownership


class OwnershipInMemory(Ownership):
    async def make_server(self) -> ControllableServer:
        return ControllableMemoryServer()


TestOwnership = OwnershipInMemory.TestCase
TestOwnership.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)

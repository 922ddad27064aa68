from hypothesis import settings

from skysail_testing.examples import examples
from skysail_testing.ownership_machine import Ownership
from skysail_testing.store_worlds import MemoryWorld, StoreWorld


class OwnershipInMemory(Ownership):
    async def make_world(self) -> StoreWorld:
        return MemoryWorld()


TestOwnership = OwnershipInMemory.TestCase
TestOwnership.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)

from pathlib import Path

import psutil
import pytest

from skysail.clusters.local.store import EmbeddedStore
from skysail_common.errors import StoreUnavailable


async def test_a_store_that_does_not_answer_is_killed(tmp_path: Path):
    async def never() -> None:
        raise StoreUnavailable("it did not answer")

    store = EmbeddedStore(["sleep", "1000"], {"PATH": "/usr/bin:/bin"}, tmp_path / "log", never)
    with pytest.raises(StoreUnavailable):
        await store.start()
    assert not psutil.pid_exists(store.pid)

from pathlib import Path

import pytest
from redis.asyncio.connection import parse_url

from skysail_common.store.embedded import server_url


@pytest.mark.parametrize("name", ["plain", "a b", "a%20b", "a#b", "a?b=c", "é", "a\nb", "100%"])
def test_the_client_reads_the_path_of_the_socket_from_the_url(name: str):
    socket = Path("/data") / name / "store.sock"
    assert parse_url(server_url(socket))["path"] == str(socket)

import pytest

from skysail_common.errors import InvalidInput
from skysail_common.store import Store


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("character", "/?#")
@pytest.mark.parametrize("begin", ["Zm9v", "4711"])
def test_a_password_that_ends_the_host_is_refused_and_hidden(scheme, character, begin):
    with pytest.raises(InvalidInput) as raised:
        Store(f"{scheme}://user:{begin}{character}rest@host:6379/0", "c")
    assert "percent-encoded" in raised.value.message
    assert begin not in raised.value.message
    assert "rest" not in raised.value.message


@pytest.mark.parametrize(
    "url",
    [
        "redis://host:6379/0",
        "redis://:a%2Fb@host:6379/0",
        "redis://:a@b@host/0",
        "unix:///a@b/store.sock",
        "unix://:pass@/run/store.sock",
    ],
)
async def test_other_urls_are_accepted(url: str):
    await Store(url, "c").close()

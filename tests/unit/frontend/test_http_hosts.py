import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from skysail_frontend.ingress.http_hosts import host_of
from skysail_frontend.ingress.http_server import http_app
from skysail_frontend.settings import FrontendSettings


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("A.example:80", "a.example"),
        ("a.example", "a.example"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("", ""),
    ],
)
def test_the_host_of_an_authority(authority: str, host: str):
    assert host_of(authority) == host


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ({}, "localhost:8000", 200),
        ({}, "a.example", 421),
        ({"advertised_http_endpoint": "a.example:80"}, "a.example", 200),
        ({"host": "0.0.0.0"}, "a.example", 200),
        ({"http_allowed_hosts": "a.example"}, "A.example:8000", 200),
        ({"http_allowed_hosts": "a.example"}, "b.example", 421),
        ({"http_allowed_hosts": "a.example"}, "10.1.2.3.example", 421),
        ({"http_allowed_hosts": "A.example:443, b.example"}, "a.example:8000", 200),
        ({"http_allowed_hosts": "*"}, "b.example", 200),
        # A probe by HTTP/1.0.
        ({}, "", 200),
        # Probes and scrapers of a pod know only its address.
        ({"http_allowed_hosts": "a.example"}, "10.1.2.3:8002", 200),
        ({"http_allowed_hosts": "a.example"}, "[fd00::1]:8002", 200),
    ],
)
async def test_names_are_checked_and_addresses_are_not(
    settings: dict[str, str], host: str, status: int
):
    allowed = FrontendSettings(**settings).allowed_hosts()
    app = http_app([Route("/live", lambda _: PlainTextResponse("live"))], allowed)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/live", headers={"host": host})).status_code == status

import httpx
from starlette.applications import Starlette

from skysail_frontend.ingress.http_server import http_app
from skysail_frontend.monitoring.metrics import MetricsPage
from skysail_frontend.monitoring.probes import Probes
from unit.frontend.parts import Frontend


async def test_a_frontend_is_ready_from_its_first_routes_until_it_drains():
    has_routes = False

    async def answer() -> bool:
        return has_routes

    probes = Probes(answer)
    transport = httpx.ASGITransport(Starlette(routes=probes.routes()))
    async with httpx.AsyncClient(transport=transport, base_url="http://frontend") as client:

        async def statuses() -> list[int]:
            return [(await client.get(path)).status_code for path in ("/live", "/ready")]

        assert await statuses() == [200, 503]
        assert "no routes" in (await client.get("/ready")).text
        has_routes = True
        assert await statuses() == [200, 200]
        probes.drain()
        assert await statuses() == [200, 503]


async def test_the_metrics_port_names_its_own_paths():
    async def has_routes() -> bool:
        return True

    page = MetricsPage(Frontend().dispatcher, dict)
    app = http_app([*page.routes(), *Probes(has_routes).routes()])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://frontend") as client:
        answer = await client.get("/v2/models/m")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "nothing is served at /v2/models/m; this port has /metrics, /live, /ready"
    }

"""The Kubernetes client against a scripted server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from skysail_common.errors import ContainerManagerUnavailable, FailedPrecondition, SkysailError
from skysail_common.kubernetes import api as kubernetes_api
from skysail_common.kubernetes import connection as kubernetes_connection
from skysail_common.kubernetes.api import KubernetesApi, WatchEvent
from skysail_common.kubernetes.errors import (
    ChangedMeanwhile,
    ClusterRefused,
    NotAllowed,
    NotInCluster,
)
from skysail_common.kubernetes.kinds import CONFIG_MAP, DEPLOYMENT, NAMESPACE, POD
from skysail_management.containers.kubernetes.manager import KubernetesManager
from skysail_management.settings import ManagementSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FORBIDDEN = (
    'pods is forbidden: User "jo" cannot list resource "pods" in API group "" in the namespace "n"'
)


class Server:
    """A server that answers each call with the next handler of a script and records requests."""

    def __init__(self) -> None:
        self.script: list[Handler] = []
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.address = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs}")
        self.headers.append(dict(request.headers))
        text = await request.text()
        self.bodies.append(json.loads(text) if text else None)
        return await self.script.pop(0)(request)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.address = "{}:{}".format(*runner.addresses[0][:2])
    yield server
    await runner.cleanup()


@pytest.fixture
async def api(server: Server) -> AsyncIterator[KubernetesApi]:
    api = KubernetesApi(proxy_addr=server.address, namespace="n")
    await api.open()
    yield api
    await api.close()


def says(content: Any, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(content, status=status)

    return handler


def refuses(status: int, message: str) -> Handler:
    return says({"kind": "Status", "code": status, "message": message}, status)


def lists(version: str, *pods: dict[str, Any]) -> Handler:
    items = [{key: value for key, value in pod.items() if key != "kind"} for pod in pods]
    return says({"kind": "PodList", "metadata": {"resourceVersion": version}, "items": items})


def pod(name: str, version: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "resourceVersion": version},
    }  # fmt: skip


def event(kind: str, content: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


def streams(*chunks: bytes, stays: bool = False) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if stays:
            await asyncio.Event().wait()
        return response

    return handler


def breaks(*chunks: bytes) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        assert request.transport is not None
        request.transport.abort()
        return response

    return handler


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def seen(api: KubernetesApi, number: int) -> list[WatchEvent]:
    found = []
    async with aclosing(api.watch(POD, {"a": "b"})) as changes:
        async for change in changes:
            found.append(change)
            if len(found) == number:
                break
    return found


async def test_requests_have_the_right_method_path_and_body(server: Server, api: KubernetesApi):
    server.script = [says(pod("p", "1"))] * 6
    await api.get(POD, "p")
    await api.create(pod("p", ""))
    await api.apply(pod("p", ""))
    await api.patch(DEPLOYMENT, "d", {"spec": {"replicas": 2}}, "scale")
    await api.patch(POD, "p", [{"op": "remove", "path": "/spec"}])
    assert await api.replace(pod("p", "1")) == pod("p", "1")
    assert server.asked == [
        "GET /api/v1/namespaces/n/pods/p",
        "POST /api/v1/namespaces/n/pods?fieldManager=skysail",
        "PATCH /api/v1/namespaces/n/pods/p?fieldManager=skysail&force=true",
        "PATCH /apis/apps/v1/namespaces/n/deployments/d/scale?fieldManager=skysail",
        "PATCH /api/v1/namespaces/n/pods/p?fieldManager=skysail",
        "PUT /api/v1/namespaces/n/pods/p?fieldManager=skysail",
    ]
    assert [headers.get("Content-Type") for headers in server.headers][1:] == [
        "application/json",
        "application/apply-patch+yaml",
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/json",
    ]
    assert server.bodies[3:5] == [{"spec": {"replicas": 2}}, [{"op": "remove", "path": "/spec"}]]


async def test_listed_objects_have_kind_and_version(server: Server, api: KubernetesApi):
    server.script = [lists("7", {"metadata": {"name": "p"}})]
    assert await api.list(POD, {"a": "b", "c": ""}) == [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    ]
    assert server.asked == ["GET /api/v1/namespaces/n/pods?labelSelector=a%3Db,c"]


async def test_deleting_a_missing_object_succeeds(server: Server, api: KubernetesApi):
    server.script = [says({}), refuses(404, "not found"), refuses(409, "precondition failed")]
    await api.delete(POD, "p", grace_s=0)
    await api.delete(CONFIG_MAP, "c", propagation="Foreground")
    await api.delete(NAMESPACE, "n", uid="u")
    assert server.bodies == [
        {"propagationPolicy": "Background", "gracePeriodSeconds": 0},
        {"propagationPolicy": "Foreground"},
        {"propagationPolicy": "Background", "preconditions": {"uid": "u"}},
    ]
    server.script = [refuses(409, "the object has been modified")]
    with pytest.raises(ChangedMeanwhile):
        await api.delete(POD, "p")


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (404, 'pods "p" not found', NotInCluster),
        (409, "already exists", ChangedMeanwhile),
        (422, "Required value", ClusterRefused),
        (429, "too many requests", ContainerManagerUnavailable),
        (503, "etcd is away", ContainerManagerUnavailable),
        (403, FORBIDDEN, NotAllowed),
    ],
)
async def test_each_refusal_raises_its_error(
    server: Server, api: KubernetesApi, status: int, message: str, error: type
):
    server.script = [refuses(status, message)] * 2
    with pytest.raises(error):
        await api.get(POD, "p")
    with pytest.raises(error):
        await seen(api, 1)


async def test_a_watch_lists_and_reports_changes(server: Server, api: KubernetesApi):
    first, second = pod("p", "8"), pod("q", "9")
    content = event("MODIFIED", first) + event("ADDED", second) + event("DELETED", second)
    # Chunks do not end at line ends.
    chunks = [content[:10], content[10:100], content[100:]]
    server.script = [lists("7", pod("p", "5")), streams(*chunks, stays=True)]
    assert await seen(api, 4) == [
        WatchEvent((pod("p", "5"),)),
        WatchEvent(None, first),
        WatchEvent(None, second),
        WatchEvent(None, second, True),
    ]
    assert server.asked[1] == (
        "GET /api/v1/namespaces/n/pods?watch=true&allowWatchBookmarks=true&resourceVersion=7"
        "&labelSelector=a%3Db&timeoutSeconds=60"
    )


async def test_a_watch_that_the_server_ends_is_resumed(server: Server, api: KubernetesApi):
    bookmark = {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "20"}}
    server.script = [
        lists("7"),
        streams(event("ADDED", pod("p", "8"))),
        streams(event("BOOKMARK", bookmark)),
        streams(),
        streams(event("MODIFIED", pod("p", "21")), stays=True),
    ]
    assert await seen(api, 3) == [
        WatchEvent(()),
        WatchEvent(None, pod("p", "8")),
        WatchEvent(None, pod("p", "21")),
    ]
    versions = [asked.partition("resourceVersion=")[2].partition("&")[0] for asked in server.asked]
    assert versions == ["", "7", "8", "20", "20"]


@pytest.mark.parametrize("how", ["event", "status"])
async def test_an_expired_watch_lists_again(server: Server, api: KubernetesApi, how: str):
    gone = {"kind": "Status", "code": 410, "message": "too old resource version: 7 (90)"}
    server.script = [
        lists("7", pod("p", "5")),
        streams(event("ERROR", gone)) if how == "event" else refuses(410, "too old"),
        lists("90", pod("q", "88")),
        streams(event("ADDED", pod("r", "91")), stays=True),
    ]
    assert await seen(api, 3) == [
        WatchEvent((pod("p", "5"),)),
        WatchEvent((pod("q", "88"),)),
        WatchEvent(None, pod("r", "91")),
    ]


async def test_an_error_event_fails_the_watch(server: Server, api: KubernetesApi):
    failure = {"kind": "Status", "code": 500, "message": "etcd event received with no PrevKv"}
    server.script = [lists("7"), streams(event("ERROR", failure))]
    with pytest.raises(ContainerManagerUnavailable, match="etcd event received"):
        await seen(api, 2)


async def test_a_broken_connection_fails_the_watch(server: Server, api: KubernetesApi):
    server.script = [lists("7"), breaks(event("ADDED", pod("p", "8"))[:-5])]
    with pytest.raises(ContainerManagerUnavailable, match="Kubernetes does not answer at http://"):
        await seen(api, 2)


async def test_a_silent_server_times_out(server: Server, api: KubernetesApi, monkeypatch):
    monkeypatch.setattr(kubernetes_connection, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(kubernetes_api, "_WATCH_S", 0)
    monkeypatch.setattr(kubernetes_api, "_WATCH_SLACK_S", 0.05)
    server.script = [never, lists("7"), streams(stays=True)]
    # The error names the class of an exception without a message.
    with pytest.raises(ContainerManagerUnavailable, match=r"answer at http://[0-9.:]+: \w+"):
        await api.get(POD, "p")
    with pytest.raises(ContainerManagerUnavailable, match=r"answer at http://[0-9.:]+: \w+"):
        await seen(api, 2)


async def test_a_server_without_kubernetes_is_named(server: Server, api: KubernetesApi):
    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>It works!</html>")

    server.script = [page]
    with pytest.raises(ContainerManagerUnavailable) as caught:
        await api.get(POD, "p")
    assert (
        caught.value.message
        == f"the server at http://{server.address} is not a Kubernetes API server"
    )


async def test_a_closed_port_is_an_error(server: Server):
    api = KubernetesApi(proxy_addr="127.0.0.1:1", namespace="n")
    with pytest.raises(ContainerManagerUnavailable, match=r"at http://127\.0\.0\.1:1: "):
        await api.get(POD, "p")
    await api.close()


async def test_a_log_comes_line_by_line(server: Server, api: KubernetesApi):
    server.script = [streams(b"one\ntw", b"o\n", b"\nend"), streams(), refuses(400, "waiting")]
    async with api.log("p", "c", 5, follow=True) as lines:
        assert [line async for line in lines] == [b"one", b"two", b"", b"end"]
    async with api.log("p", "c", 5, previous=True) as lines:
        assert [line async for line in lines] == []
    with pytest.raises(ClusterRefused, match="waiting"):
        async with api.log("p", "c", 5):
            pass
    assert server.asked[:2] == [
        "GET /api/v1/namespaces/n/pods/p/log?container=c&tailLines=5&follow=true",
        "GET /api/v1/namespaces/n/pods/p/log?container=c&tailLines=5&previous=true",
    ]


async def test_closing_a_log_ends_its_request(server: Server, api: KubernetesApi):
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"line\n" * 1000)
                await asyncio.sleep(0)
        finally:
            ended.set()

    server.script = [endless]
    async with api.log("p", "c", 5, follow=True) as lines:
        async for line in lines:
            assert line == b"line"
            break
    await asyncio.wait_for(ended.wait(), 10)


def config(address: str, token: str, namespace: str = "team") -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": f"http://{address}"}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [
                {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": namespace}},
                {"name": "y", "context": {"cluster": "c", "user": "u"}},
            ],
        }
    )


@pytest.fixture
def file(server: Server, tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(config(server.address, "old"))
    return path


def with_token(token: str, answer: Handler, otherwise: Callable[[], None]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == f"Bearer {token}":
            return await answer(request)
        otherwise()
        return await refuses(401, "Unauthorized")(request)

    return handler


async def test_the_namespace_comes_from_the_context(server: Server, file: Path):
    for context, given, namespace in (("", "", "team"), ("y", "", "default"), ("x", "n", "n")):
        api = KubernetesApi(str(file), context, namespace=given)
        await api.open()
        assert api.namespace == namespace
        await api.close()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"current-context": "x"}'])
async def test_an_invalid_kubeconfig_is_an_error(tmp_path: Path, content: str):
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(FailedPrecondition, match=r"^no Kubernetes configuration found: "):
        await KubernetesApi(str(path)).open()


async def test_a_missing_kubeconfig_or_context_is_an_error(file: Path):
    for api in (KubernetesApi("/nowhere"), KubernetesApi(str(file), "z")):
        with pytest.raises(FailedPrecondition, match=r"^no Kubernetes configuration found: "):
            await api.open()


async def test_an_expired_token_is_read_again_once(server: Server, file: Path):
    api = KubernetesApi(str(file))
    await api.open()
    handler = with_token(
        "new",
        says(pod("p", "1")),
        lambda: file.write_text(config(server.address, "new")) and None,
    )
    server.script = [handler] * 3
    await api.get(POD, "p")
    await api.get(POD, "p")
    assert len(server.asked) == 3
    server.script = [refuses(401, "Unauthorized")] * 2
    with pytest.raises(NotAllowed, match="Kubernetes rejects the credentials: Unauthorized"):
        await api.get(POD, "p")
    assert server.script == []
    await api.close()


async def test_calls_in_flight_survive_a_new_token(server: Server, file: Path):
    api = KubernetesApi(str(file))
    await api.open()
    go_on = asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(event("ADDED", pod("p", "8")))
        await go_on.wait()
        await response.write(event("MODIFIED", pod("p", "9")))
        return response

    handler = with_token(
        "new",
        says(pod("p", "1")),
        lambda: file.write_text(config(server.address, "new")) and None,
    )
    server.script = [lists("7"), waits, *[handler] * 10]
    async with aclosing(api.watch(POD, {})) as changes:
        assert await anext(changes) == WatchEvent(())
        assert await anext(changes) == WatchEvent(None, pod("p", "8"))
        # The server refuses all five calls, and the client reads the file once.
        await asyncio.gather(*(api.get(POD, "p") for _ in range(5)))
        go_on.set()
        assert await anext(changes) == WatchEvent(None, pod("p", "9"))
    await api.close()


async def test_an_unreachable_cluster_is_named(tmp_path: Path):
    settings = ManagementSettings(data_dir=tmp_path, kubernetes_proxy_addr="127.0.0.1:1")
    with pytest.raises(SkysailError, match=r"Kubernetes does not answer at http://127\.0\.0\.1:1"):
        await KubernetesManager(settings).open()
    settings = ManagementSettings(data_dir=tmp_path, kubeconfig=str(tmp_path / "none"))
    with pytest.raises(FailedPrecondition, match="no Kubernetes configuration found"):
        await KubernetesManager(settings).open()

import asyncio
from typing import Any, cast

from skysail_common.errors import ContainerManagerUnavailable
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotInCluster
from skysail_common.kubernetes.kinds import Kind
from skysail_management.leadership.leader_label import LeaderLabel
from skysail_testing.virtual_time import now, pass_time, virtual_time

LEADER = "skysail.ai/leader"
OURS = {
    "app.kubernetes.io/name": "skysail",
    "app.kubernetes.io/component": "management",
    "skysail.ai/cluster": "c",
}


class FakePodApi:
    """Labels of pods in memory."""

    def __init__(self, **pods: dict[str, str]) -> None:
        self.pods = pods
        self.num_failures = 0
        self.is_silent = False
        self.num_changes = 0

    def leaders(self) -> list[str]:
        return [name for name, labels in self.pods.items() if labels.get(LEADER) == "true"]

    async def list(self, kind: Kind, labels: dict[str, str]) -> list[dict[str, Any]]:
        return [
            {"metadata": {"name": name, "labels": found}}
            for name, found in self.pods.items()
            if labels.items() <= found.items()
        ]

    async def patch(self, kind: Kind, name: str, change: dict[str, Any]) -> None:
        if self.is_silent:
            await asyncio.Event().wait()
        if self.num_failures:
            self.num_failures -= 1
            raise ContainerManagerUnavailable("gone")
        if name not in self.pods:
            raise NotInCluster(name)
        self.num_changes += 1
        for label, value in change["metadata"]["labels"].items():
            if value is None:
                self.pods[name].pop(label, None)
            else:
                self.pods[name][label] = value


def label(api: FakePodApi, pod: str = "a") -> LeaderLabel:
    return LeaderLabel(cast(KubernetesApi, api), "c", pod)


async def marked(label: LeaderLabel, within_s: float = 100.0) -> None:
    """Keep the label for a while."""
    keeping = asyncio.ensure_future(label.keep())
    await pass_time(within_s)
    assert not keeping.done()
    keeping.cancel()
    await asyncio.wait({keeping})


@virtual_time
async def test_only_the_own_pod_has_the_label():
    api = FakePodApi(
        a={**OURS},
        crashed={**OURS, LEADER: "true"},
        other_cluster={**OURS, "skysail.ai/cluster": "d", LEADER: "true"},
        no_management={**OURS, "app.kubernetes.io/component": "frontend", LEADER: "true"},
    )
    await marked(label(api))
    assert api.leaders() == ["a", "other_cluster", "no_management"]
    await label(api).remove()
    assert api.leaders() == ["other_cluster", "no_management"]


@virtual_time
async def test_label_is_retried_until_set():
    api = FakePodApi(a={**OURS}, crashed={**OURS, LEADER: "true"})
    api.num_failures = 5
    await marked(label(api))
    assert api.leaders() == ["a"]


@virtual_time
async def test_label_is_restored_after_outside_changes():
    api = FakePodApi(a={**OURS}, former={**OURS})
    keeping = asyncio.ensure_future(label(api).keep())
    await pass_time(1.0)
    assert api.leaders() == ["a"]
    # A request of a former leader arrives late.
    api.pods["former"][LEADER] = "true"
    del api.pods["a"][LEADER]
    await pass_time(6.0)
    assert api.leaders() == ["a"]
    num_changes = api.num_changes
    await pass_time(60.0)
    assert api.num_changes == num_changes
    keeping.cancel()
    await asyncio.wait({keeping})


@virtual_time
async def test_removal_has_a_time_limit():
    api = FakePodApi(a={**OURS, LEADER: "true"})
    api.is_silent = True
    began = now()
    await label(api).remove()
    assert now() - began < 2.1
    api.is_silent, api.num_failures = False, 1
    await label(api).remove()
    assert api.leaders() == ["a"]


@virtual_time
async def test_label_is_skipped_without_a_pod():
    api = FakePodApi(other={**OURS, LEADER: "true"})
    await marked(label(api, ""))
    await label(api, "").remove()
    assert api.leaders() == ["other"]
    await marked(label(api))
    await label(api).remove()
    assert api.leaders() == []

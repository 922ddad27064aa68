import pytest

from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail_testing.fake_kubernetes import FakeKubernetesApi


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeKubernetesApi:
    made = FakeKubernetesApi()
    monkeypatch.setattr(KubernetesOptions, "api", lambda self: made)
    return made

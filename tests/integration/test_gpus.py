"""GPUs of a local cluster, with made-up devices."""

from collections.abc import Iterator

import pytest

import skysail
from skysail import errors
from skysail_testing.clusters import running_cluster


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[skysail.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKYSAIL_MANAGEMENT_GPU_DEVICES", "7,8")
        with running_cluster(tmp_path_factory.mktemp("g")) as running, running.client() as client:
            yield client


def devices(texts):
    import os

    return [os.environ["CUDA_VISIBLE_DEVICES"] for _ in texts]


class Device:
    """A model that answers its device."""

    def load(self, context):
        self.device = context.device

    def predict(self, texts):
        return [self.device for _ in texts]


def test_replicas_share_a_gpu_and_report_their_device(client: skysail.Client):
    found = client.deploy(devices, name="half", input_type="strings", check=False, gpus=0.5)
    assert found.deployment is not None
    assert found.deployment.gpus == 0.5
    client.deploy(Device, name="device", input_type="strings", gpus=0.5)
    client.deploy(devices, name="whole", input_type="strings", check=False, gpus=1)
    client.deploy(devices, name="none", input_type="strings", check=False)
    assert [client.predict(name, "?").output for name in ("half", "whole", "none")] == [
        "7",
        "8",
        "",
    ]
    # The devices are made up, so that no driver answers.
    assert client.predict("device", "?").output == "cpu"
    with pytest.raises(errors.DeployFailed, match="no GPU is free"):
        client.deploy(
            devices, name="more", input_type="strings", check=False, gpus=1, start_timeout_s=2
        )
    with pytest.raises(errors.Unsupported, match="cannot reserve 3 GPUs"):
        client.deploy(devices, name="most", input_type="strings", check=False, gpus=3)

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from skysail_common.errors import Unsupported
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.resources import Resources
from skysail_management.containers.base import ReplicaSpec, VersionSpec
from skysail_management.containers.docker.manager import docker_engine_manager
from skysail_management.containers.docker.options import PreparedImage, replica_config
from skysail_management.containers.gpus import GpuReservation
from skysail_management.settings import ManagementSettings

VERSION = ModelVersion("m", "1")
MOUNT = {"Type": "bind", "Source": "/d/blob", "Target": "/opt/model.bin", "ReadOnly": True}


def config(
    memory_mib: int = 0, cpus: float = 0, gpus: float = 0, marks: Any = None, **settings: Any
) -> dict[str, Any]:
    spec = ReplicaSpec(
        ReplicaId(VERSION, 0),
        VersionSpec(VERSION, "0" * 64, "3.11.2"),
        "m:1",
        "the token",
        Resources(1, memory_mib, cpus, gpus),
    )
    values = ManagementSettings(data_dir=Path("/d"), **settings)
    image = PreparedImage("image", [MOUNT])
    return replica_config(spec, image, {"cluster": "c", **(marks or {})}, "/sockets/1", values)


def test_a_replica_has_no_network_no_rights_and_no_token():
    host = config()["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert host["ReadonlyRootfs"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert [mount["Source"] for mount in host["Mounts"]] == ["/sockets/1", "/d/blob"]
    assert "the token" not in str(config())
    assert config()["Labels"] == {"ai.skysail.cluster": "c"}


def test_limits_of_the_deployment_precede_those_of_the_settings():
    host = config(docker_memory_mib=100, docker_cpus=1.5)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (100 * 1024**2, 100 * 1024**2)
    assert host["NanoCpus"] == 1_500_000_000
    assert config(cpus=0.25, docker_cpus=1.5)["HostConfig"]["NanoCpus"] == 250_000_000
    assert config(64, docker_memory_mib=100)["HostConfig"]["Memory"] == 64 * 1024**2
    assert config()["HostConfig"]["Memory"] == 0


def test_gpus_and_volumes_are_opt_in():
    assert "DeviceRequests" not in config()["HostConfig"]
    host = config(docker_gpus=-1, docker_volumes=("/srv:/data:ro",))["HostConfig"]
    assert host["DeviceRequests"] == [{"Count": -1, "Capabilities": [["gpu"]]}]
    assert host["Binds"] == ["/srv:/data:ro"]
    host = config(gpus=2, docker_gpus=-1)["HostConfig"]
    assert host["DeviceRequests"] == [{"Count": 2, "Capabilities": [["gpu"]]}]


def test_reserved_devices_are_given_by_their_names():
    label = GpuReservation(("GPU-1",), Fraction(1, 4)).to_label()
    host = config(gpus=0.25, docker_gpus=-1, marks={"gpus": label})["HostConfig"]
    assert host["DeviceRequests"] == [{"DeviceIDs": ["GPU-1"], "Capabilities": [["gpu"]]}]


def test_a_fraction_of_a_gpu_needs_known_devices(tmp_path: Path):
    manager = docker_engine_manager(ManagementSettings(data_dir=tmp_path))
    manager.check_resources(Resources(gpus=2))
    with pytest.raises(Unsupported, match="name them in the setting gpu-devices"):
        manager.check_resources(Resources(gpus=0.5))


def test_default_threads_follow_the_cpu_limit(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    limited = docker_engine_manager(ManagementSettings(data_dir=tmp_path, docker_cpus=1.5))
    assert limited.default_threads(num_replicas=4) == 2
    unlimited = docker_engine_manager(ManagementSettings(data_dir=tmp_path))
    assert unlimited.default_threads(num_replicas=4) == 2
    assert unlimited.default_threads(num_replicas=1) == 8


def test_networks_follow_the_settings():
    host = config(docker_internet=True)["HostConfig"]
    assert (host["NetworkMode"], len(host["Mounts"])) == ("bridge", 2)
    on_network = config(docker_network="n")
    assert on_network["HostConfig"]["NetworkMode"] == "n"
    assert on_network["HostConfig"]["Mounts"] == [MOUNT]
    assert "SKYSAIL_MODEL_SERVER_LISTEN_ADDRESS=0.0.0.0:8005" in on_network["Env"]

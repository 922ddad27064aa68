from pathlib import Path

import pytest
import yaml

import skysail
from skysail.clusters.docker.specifications import (
    FRONTEND,
    MANAGEMENT,
    NEAR_REPLICAS,
    PORTS,
    PROMETHEUS,
    STORE,
    DockerSpecifications,
    pip_files,
    prometheus_config,
)
from skysail.clusters.options import ClusterOptions

ROOT = Path(__file__).parents[5]
SERVICES = (STORE, MANAGEMENT, FRONTEND, PROMETHEUS)
ENVIRONMENT = {
    "PATH": "/usr/bin",
    "HOME": "/home/a",
    "PIP_INDEX_URL": "https://index.example/simple",
    "https_proxy": "http://proxy.example:3128",
    "SKYSAIL_MANAGEMENT_DOCKER_REGISTRY": "registry.example:5000/team",
    "SKYSAIL_MANAGEMENT_HOST": "0.0.0.0",
    "SKYSAIL_FRONTEND_CACHE_MIB": "8",
}


def plan_of(
    data_dir: str = "/data/of/a", environment=ENVIRONMENT, **options: object
) -> DockerSpecifications:
    return DockerSpecifications(
        ClusterOptions(Path(data_dir), **options),  # type: ignore[arg-type]
        environment,
        user=1000,
        engine_socket=Path("/run/user/1000/docker.sock"),
        engine_group=987,
    )


def config(plan: DockerSpecifications, service: str) -> dict:
    return plan.config(
        service, {name: f"127.0.0.1:{20_000 + port}" for name, port in PORTS[service].items()}
    )


def variables(plan: DockerSpecifications, service: str) -> dict[str, str]:
    return dict(each.split("=", 1) for each in config(plan, service)["Env"])


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_names_differ_by_cluster_and_by_directory():
    names = {
        plan.name(MANAGEMENT) for plan in (plan_of(), plan_of(cluster="b"), plan_of("/data/of/b"))
    }
    assert len(names) == 3


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_published_where_the_endpoints_say_and_nowhere_else(service):
    host = config(plan_of(), service)["HostConfig"]
    assert host["PortBindings"] == {
        f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(20_000 + port)}]
        for port in PORTS[service].values()
    }


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_isolated_and_runs_as_the_owner_of_its_directory(service):
    found = config(plan_of(), service)
    assert found["User"] == "1000:1000"
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["Binds"]


def test_the_store_listens_on_no_network():
    found = config(plan_of(), STORE)
    assert found["HostConfig"]["NetworkMode"] == "none"
    words = found["Cmd"]
    assert words[words.index("--port") + 1] == "0"


def test_a_service_gets_only_its_settings_and_options_override_them():
    management, frontend = (variables(plan_of(), service) for service in (MANAGEMENT, FRONTEND))
    assert management["SKYSAIL_MANAGEMENT_DOCKER_REGISTRY"] == "registry.example:5000/team"
    assert management["SKYSAIL_MANAGEMENT_HOST"] == "management-on-doors"
    assert management["PIP_INDEX_URL"] == "https://index.example/simple"
    assert management["https_proxy"] == "http://proxy.example:3128"
    assert frontend["SKYSAIL_FRONTEND_CACHE_MIB"] == "8"
    assert not {"PATH", "HOME", "SKYSAIL_FRONTEND_CACHE_MIB"} & management.keys()
    assert not {"PIP_INDEX_URL", "SKYSAIL_MANAGEMENT_DOCKER_REGISTRY"} & frontend.keys()


def test_files_of_settings_are_copied_for_the_service_that_reads_them():
    environment = {
        "SKYSAIL_FRONTEND_TLS_CERTIFICATE_FILE": "/etc/tls/tls.crt",
        "SKYSAIL_FRONTEND_TLS_KEY_FILE": "/etc/tls/tls.key",
        "SKYSAIL_MANAGEMENT_TOKEN_FILE": "/etc/token",
    }
    plan = plan_of(environment=environment)
    assert plan.files(MANAGEMENT) == {"SKYSAIL_MANAGEMENT_TOKEN_FILE": Path("/etc/token")}
    assert plan.files(FRONTEND) == {
        "SKYSAIL_FRONTEND_MANAGEMENT_TOKEN_FILE": Path("/etc/token"),
        "SKYSAIL_FRONTEND_TLS_CERTIFICATE_FILE": Path("/etc/tls/tls.crt"),
        "SKYSAIL_FRONTEND_TLS_KEY_FILE": Path("/etc/tls/tls.key"),
    }
    for service in (MANAGEMENT, FRONTEND):
        binds = dict(reversed(bind.split(":")[:2]) for bind in binds_of(plan, service))
        for name in plan.files(service):
            inside = Path(variables(plan, service)[name])
            mounted = next(there for there in binds if inside.is_relative_to(there))
            copy = Path(binds[mounted]) / inside.relative_to(mounted)
            assert copy == plan.copies(service) / name


def binds_of(plan: DockerSpecifications, service: str) -> list[str]:
    return config(plan, service)["HostConfig"]["Binds"]


def test_management_is_published_at_an_address_of_its_own():
    options = plan_of(host="0.0.0.0").options
    assert options.host_of("management") == "127.0.0.1"
    assert {options.host_of(name) for name in PORTS[FRONTEND]} == {"0.0.0.0"}
    flags = options.addresses()
    assert flags["--management-port"] == ("127.0.0.1", 8003)
    assert flags["--http-port"] == ("0.0.0.0", 8000)


def test_clients_are_told_where_the_frontend_is_published():
    found = variables(plan_of(), FRONTEND)
    assert found["SKYSAIL_FRONTEND_ADVERTISED_GRPC_ENDPOINT"] == "127.0.0.1:28001"
    assert found["SKYSAIL_FRONTEND_ADVERTISED_HTTP_ENDPOINT"] == "127.0.0.1:28000"


def test_a_given_store_replaces_the_container():
    plan = plan_of(redis_url="redis://store.example:6379/0")
    assert variables(plan, MANAGEMENT)["SKYSAIL_REDIS_URL"] == "redis://store.example:6379/0"


def test_management_has_the_socket_of_the_engine_and_its_group():
    host = config(plan_of(), MANAGEMENT)["HostConfig"]
    assert "/run/user/1000/docker.sock:/run/docker.sock" in host["Binds"]
    assert host["GroupAdd"] == ["987"]


def test_files_that_pip_needs_are_brought_along(tmp_path):
    wheels, bundle = tmp_path / "wheels", tmp_path / "ca.crt"
    wheels.mkdir()
    bundle.touch()
    found = pip_files(
        {
            "PIP_CERT": str(bundle),
            "PIP_FIND_LINKS": f"https://index.example/a {wheels}",
            "PIP_CONSTRAINT": str(tmp_path / "none.txt"),
        }
    )
    assert set(found) - {Path("/etc/pip.conf")} == {wheels, bundle}


def test_compose_has_the_same_services_with_the_same_isolation(compose):
    plan = plan_of()
    assert set(SERVICES) == set(compose["services"])
    for service in SERVICES:
        there, here = compose["services"][service], config(plan, service)["HostConfig"]
        assert there["cap_drop"] == here["CapDrop"]
        assert there["read_only"] == here["ReadonlyRootfs"]
        assert there["init"] == here["Init"]
        assert there["restart"] == here["RestartPolicy"]["Name"]
        assert there["security_opt"] == [f"{each}:true" for each in here["SecurityOpt"]]
        assert there["image"].rpartition("-skysail-")[2] == f"{service}:{skysail.__version__}}}"
        for port in there.get("ports", []) if service == MANAGEMENT else []:
            assert port.startswith("127.0.0.1:")
        published = {int(str(port).rpartition(":")[2]) for port in there.get("ports", [])}
        assert published == set(PORTS[service].values())


def test_compose_has_the_same_networks(compose):
    networks = plan_of().networks()
    assert len(compose["networks"]) == len(networks)
    for name, here in networks.items():
        there = compose["networks"][name.rpartition("-")[2]]
        assert there.get("internal") == here.get("internal")
        assert there.get("driver_opts") == here.get("options")
    services = compose["services"]
    assert services[STORE]["network_mode"] == "none"
    for service in (MANAGEMENT, FRONTEND, PROMETHEUS):
        assert config(plan_of(), service)["HostConfig"]["NetworkMode"].endswith("-doors")
        assert ("replicas" in services[service]["networks"]) == (service in NEAR_REPLICAS)
        assert "doors" in services[service]["networks"]
    assert services[MANAGEMENT]["sysctls"] == config(plan_of(), MANAGEMENT)["HostConfig"]["Sysctls"]


def test_compose_gives_services_the_same_variables_where_they_are_not_the_images(compose):
    from_image = {"SKYSAIL_MANAGEMENT_DATA_DIR"}
    logs = {"LOG_LEVEL", "LOG_FORMAT"}
    optional = {"SKYSAIL_FRONTEND_FRONTEND_ID", "SKYSAIL_FRONTEND_WORKERS"}
    for service in (MANAGEMENT, FRONTEND):
        here = {
            name
            for name in variables(plan_of(environment={}), service)
            if not name.endswith(tuple(logs))
        }
        there = set(compose["services"][service]["environment"])
        assert here - from_image - optional <= there


def test_compose_keeps_the_store_as_the_supervisor_does(compose):
    there = compose["services"][STORE]["command"]
    here = config(plan_of(), STORE)["Cmd"]
    options = dict(zip(there[1::2], there[2::2], strict=True))
    # Store and management of compose run as different users.
    assert options.pop("--unixsocketperm") == "777"
    assert options.items() <= dict(zip(here[1::2], here[2::2], strict=True)).items()


def test_prometheus_finds_frontends_by_their_name_as_in_compose(compose):
    there = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert there == prometheus_config()
    (found,) = there["scrape_configs"][0]["dns_sd_configs"]
    assert found["port"] == PORTS[FRONTEND]["metrics"]
    (network,) = config(plan_of(), FRONTEND)["NetworkingConfig"]["EndpointsConfig"].values()
    assert found["names"] == network["Aliases"] == [FRONTEND]
    prometheus = compose["services"][PROMETHEUS]
    assert prometheus["profiles"] == ["monitoring"]
    mounts = [mount.partition(":")[2] for mount in prometheus["volumes"]]
    binds = config(plan_of(), PROMETHEUS)["HostConfig"]["Binds"]
    assert mounts == [bind.partition(":")[2] for bind in binds]
    assert prometheus["volumes"][0].startswith("./deploy/prometheus/prometheus.yml:")

import pytest

from skysail_common.process.inherited_variables import (
    install_variables,
    replica_variables,
)
from skysail_common.process.pip_configuration import package_variables

USUAL = {
    "PATH": "/usr/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C",
    "LD_LIBRARY_PATH": "/usr/lib",
    "CUDA_VISIBLE_DEVICES": "0",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "OMP_NUM_THREADS": "2",
    "PYTHONPATH": "/srv",
    "SKYSAIL_TRANSPORT": "grpc",
    "https_proxy": "http://proxy.example:3128",
    "NO_PROXY": "localhost",
}
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "hush",
    "GITHUB_TOKEN": "hush",
    "KUBECONFIG": "/root/.kube/config",
    "PGPASSWORD": "hush",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "HF_TOKEN": "hush",
    "DOCKER_HOST": "unix:///run/docker.sock",
    "NVIDIA_API_KEY": "hush",
    "TF_TOKEN_app_terraform_io": "hush",
    "TF_VAR_database": "hush",
    "SKYSAIL_TOKEN": "hush",
    "SKYSAIL_REDIS_URL": "redis://:hush@store:6379/0",
    "SKYSAIL_MANAGEMENT_DOCKER_REGISTRY_PASSWORD": "hush",
}
FOR_PIP = {
    "PIP_INDEX_URL": "https://me:hush@index.example/simple",
    "UV_INDEX_OWN_PASSWORD": "hush",
    "HTTPS_PROXY": "http://me:hush@proxy.example:3128",
}
ALL = {**USUAL, **SECRETS, **FOR_PIP}


def test_replicas_inherit_what_programs_need_and_no_credentials():
    assert replica_variables(ALL) == USUAL


def test_pip_inherits_package_indexes_but_no_other_credentials():
    assert install_variables(ALL) == {**USUAL, **FOR_PIP}
    assert set(package_variables(ALL)) == {*FOR_PIP, "https_proxy", "NO_PROXY"}


def test_a_build_has_the_flags_of_its_compiler():
    assert install_variables({"CFLAGS": "-O2"}) == {"CFLAGS": "-O2"}
    assert replica_variables({"CFLAGS": "-O2"}) == {}


@pytest.mark.parametrize("pass_env", [["AWS_SECRET_ACCESS_KEY"], ["AWS_*"]])
def test_operators_can_pass_further_variables(pass_env: list[str]):
    named = {"AWS_SECRET_ACCESS_KEY": "hush"}
    assert replica_variables(ALL, pass_env) == {**USUAL, **named}
    assert install_variables(ALL, pass_env) == {**USUAL, **FOR_PIP, **named}


def test_a_proxy_with_a_password_is_inherited_if_it_is_named():
    assert replica_variables(ALL, ["HTTPS_PROXY"])["HTTPS_PROXY"] == FOR_PIP["HTTPS_PROXY"]


def test_settings_of_skysail_never_pass():
    assert replica_variables(ALL, ["*"]).keys() & {
        name for name in ALL if name.startswith("SKYSAIL_")
    } == {"SKYSAIL_TRANSPORT"}

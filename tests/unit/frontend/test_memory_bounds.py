"""The limits of a frontend and the memory limit of its pod."""

import pytest
import yaml

from skysail.clusters.kubernetes.manifest_files import manifests_directory
from skysail_frontend.settings import FrontendSettings

PREFIX = "SKYSAIL_FRONTEND_"
PROCESS_MIB = 100
MESSAGES = 4
"""Messages of the largest size that are copied at the same time."""


@pytest.mark.parametrize("path", ["base/frontend.yaml"])
def test_a_pod_has_memory_for_the_limits_of_its_frontend(path):
    objects = yaml.safe_load_all((manifests_directory() / path).read_text())
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    named = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    values = {name.removeprefix(PREFIX).lower(): value for name, value in named.items()}
    known = {name: value for name, value in values.items() if name in FrontendSettings.model_fields}
    settings = FrontendSettings(**known)
    limit = container["resources"]["limits"]["memory"]
    assert limit.endswith("Gi")
    held = settings.max_queue_mib + settings.cache_mib + 2 * settings.http_max_memory_mib
    messages = MESSAGES * settings.max_message_mib
    assert held + messages + PROCESS_MIB <= int(limit.removesuffix("Gi")) * 1024
    assert settings.http_max_memory_mib >= MESSAGES * settings.max_message_mib

"""Files of settings in a cluster that is all in Docker: TLS of the frontend, and the token."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import skysail
from skysail import errors
from skysail.clusters.docker.file_copies import EVERY_S
from skysail.clusters.docker.specifications import MANAGEMENT
from skysail_testing.all_in_docker import all_in_docker, label, remove_images, why_not_all_in_docker
from skysail_testing.certificates import Certificate
from skysail_testing.clusters import RunningCluster
from skysail_testing.commands import skysail_command
from skysail_testing.container_managers import portable
from skysail_testing.processes import eventually

ROW = np.ones((1, 3))
TOKEN = "the-token-of-all-operators"
double = portable(lambda x: x * 2)


@dataclass
class Files:
    """Files of this machine that only root may read."""

    directory: Path

    def path(self, name: str) -> Path:
        return self.directory / name

    def write(self, name: str, content: bytes) -> Path:
        # The file is replaced atomically, as tools that renew certificates do.
        temporary = self.directory / f"{name}.new"
        temporary.touch(mode=0o600)
        temporary.write_bytes(content)
        return temporary.replace(self.path(name))

    def certify(self, authority: Certificate) -> None:
        own = Certificate("frontend", authority)
        self.write("tls.crt", own.pem)
        self.write("tls.key", own.key)


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[RunningCluster, Files]]:
    if reason := why_not_all_in_docker():
        pytest.skip(reason)
    files = Files(tmp_path)
    files.certify(_authority(files, "ca.pem"))
    patch = pytest.MonkeyPatch()
    patch.setenv("SKYSAIL_FRONTEND_TLS_CERTIFICATE_FILE", str(files.path("tls.crt")))
    patch.setenv("SKYSAIL_FRONTEND_TLS_KEY_FILE", str(files.path("tls.key")))
    patch.setenv("SKYSAIL_MANAGEMENT_TOKEN_FILE", str(files.write("token", f"{TOKEN}\n".encode())))
    with all_in_docker(tmp_path / "data") as cluster:
        patch.undo()
        yield cluster, files
    remove_images(label(tmp_path / "data"))


def _authority(files: Files, name: str) -> Certificate:
    authority = Certificate(name)
    files.write(name, authority.pem)
    return authority


def test_services_read_files_of_settings_and_their_renewals(secured):
    cluster, files = secured

    def client(ca: str, token: str | None = TOKEN) -> skysail.Client:
        return skysail.Client(
            cluster.management,
            query_endpoint=cluster.grpc,
            tls_ca_file=files.path(ca),
            token=token,
        )

    with client("ca.pem", token=None) as stranger, pytest.raises(errors.Unauthenticated):
        stranger.status()
    with client("ca.pem") as operator:
        operator.deploy(double, name="m", version="1", example=ROW)
        assert list(operator.predict("m", [1, 2, 3]).output) == [2, 4, 6]

    files.certify(_authority(files, "next.pem"))

    def is_renewed() -> bool:
        try:
            with client("next.pem") as operator:
                return list(operator.predict("m", [1, 2, 3]).output) == [2, 4, 6]
        except errors.SkysailError:
            return False

    # The cluster renews the copies first, and then the frontend reads them.
    eventually(is_renewed, timeout_s=2 * EVERY_S + 30, what="the next certificate is shown")


@pytest.mark.parametrize(
    ("variable", "value", "flags", "error"),
    [
        ("SKYSAIL_FRONTEND_TLS_KEY_FILE", "/nowhere", [], "cannot copy /nowhere of SKYSAIL_FRONT"),
        ("SKYSAIL_MANAGEMENT_TLS_KEY_FILE", "/etc/hosts", [], "management there speaks no TLS"),
        ("NONE", "", ["--management-host", "0.0.0.0"], "cannot open management on 0.0.0.0"),
    ],
)
def test_an_impossible_setting_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch, variable, value, flags, error
):
    if reason := why_not_all_in_docker():
        pytest.skip(reason)
    monkeypatch.setenv(variable, value)
    done = skysail_command("up", "--all-in-docker", "--data-dir", str(tmp_path), *flags)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert error in line
    assert not (tmp_path / "docker" / MANAGEMENT / "artifacts").exists()

"""The init containers of a pod: one fetches the artifact, one installs packages."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import skysail
from skysail_common.identifiers import ModelVersion
from skysail_common.states import ExitCode
from skysail_common.tokens import replica_token
from skysail_model_server import installer
from skysail_testing.artifact_server import SECRET, ArtifactServer
from skysail_testing.artifacts import contents_in, members_of
from skysail_testing.container_managers import make_wheel

VERSION = ModelVersion("m", "1")


def model(values):
    return values


ARTIFACT = skysail.artifact.build.build_artifact(model, input_type="doubles")
ARTIFACT_FILES = members_of(ARTIFACT)


@pytest.fixture
async def server() -> AsyncIterator[ArtifactServer]:
    server = ArtifactServer()
    await server.start()
    server.add(VERSION, ARTIFACT)
    yield server
    await server.stop()


async def fetched(server: ArtifactServer | None, path: Path, **others: str) -> tuple[int, str]:
    """Fetch an artifact; return the exit status and standard error."""
    settings = {
        "REPLICA_ID": "m:1/0",
        "ARTIFACT_DIR": str(path),
        "ARTIFACT_SHA256": ARTIFACT.sha256,
        "TOKEN": replica_token(SECRET, VERSION, ARTIFACT.sha256),
        "MANAGEMENT_ENDPOINT": f"127.0.0.1:{server.port if server else 1}",
        "FETCH_TIMEOUT_S": "1" if server is None else "30",
        **others,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "skysail_model_server.fetch",
        env={
            **os.environ,
            **{f"SKYSAIL_MODEL_SERVER_{name}": value for name, value in settings.items()},
        },
        stderr=subprocess.PIPE,
    )  # fmt: skip
    _, text = await process.communicate()
    assert process.returncode is not None
    return process.returncode, text.decode()


async def test_the_artifact_is_fetched(server: ArtifactServer, tmp_path: Path):
    path = tmp_path / "artifact"
    status, printed = await fetched(server, path)
    assert (status, "artifact fetched" in printed) == (ExitCode.OK, True)
    assert contents_in(path) == ARTIFACT_FILES


async def test_an_artifact_with_another_digest_is_refused(server: ArtifactServer, tmp_path: Path):
    status, printed = await fetched(server, tmp_path / "artifact", ARTIFACT_SHA256="ab" * 32)
    assert status == ExitCode.FAILED
    assert printed == (
        f"cannot use the artifact: its SHA-256 is {ARTIFACT.sha256}, not {'ab' * 32} as in its "
        "deployment; deploy the version again\n"
    )


async def test_a_wrong_token_is_refused(server: ArtifactServer, tmp_path: Path):
    status, printed = await fetched(server, tmp_path / "artifact", TOKEN="wrong")
    assert status == ExitCode.FAILED
    assert printed == "the token does not belong to a replica of 'm:1'\n"


async def test_an_unreachable_management_has_its_own_exit_status(tmp_path: Path):
    status, printed = await fetched(None, tmp_path / "artifact")
    assert status == ExitCode.UNAVAILABLE
    beginning = "cannot fetch the artifact: management at 127.0.0.1:1 does not answer within 1 s: "
    assert printed.startswith(beginning)
    assert "advertised-endpoint" in printed


def test_installed_packages_can_be_imported_from_the_directory(tmp_path: Path, monkeypatch):
    wheel = make_wheel(tmp_path, "own_package", "ANSWER = 42")
    directory = tmp_path / "volume" / "0123"
    # An interrupted attempt left this directory.
    (directory / "bin").mkdir(parents=True)
    (directory / "left").write_text("")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("SKYSAIL_REQUIREMENTS", f"# ours\n{wheel}\n")
    assert installer.main(["install", str(directory)]) == ExitCode.OK
    assert not (directory / "left").exists()
    program = "import own_package, skysail_model_server; print(own_package.ANSWER)"
    done = subprocess.run(
        [str(directory / "bin" / "python"), "-c", program],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "42\n"


def test_a_failed_installation_is_logged_and_leaves_no_directory(
    tmp_path: Path, monkeypatch, capfd
):
    directory = tmp_path / "0123"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("SKYSAIL_REQUIREMENTS", "no-such-package==1.0\n")
    assert installer.main(["install", str(directory)]) == 1
    assert not directory.exists()
    captured = capfd.readouterr()
    # The log of a container is one stream, so all output goes there.
    assert "no-such-package==1.0" in captured.out
    assert captured.err == ""

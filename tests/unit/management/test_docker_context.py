import io
import tarfile
from pathlib import Path

import pytest

from skysail_management.containers.docker.build_context import BuildContext


def files(context: BuildContext) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(context.archive()))) as archive:
        found = {entry.name: archive.extractfile(entry) for entry in archive}
        return {name: file.read().decode() for name, file in found.items()}


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "own-1.0-py3-none-any.whl"
    path.write_text("the wheel")
    return path


@pytest.mark.parametrize("form", ["{}", "own @ file://{}", "{}#sha256=0", "--find-links={} "])
def test_local_wheel_is_included_under_its_new_path(form: str, wheel: Path):
    found = files(BuildContext([form.format(wheel), "numpy"], {}))
    assert found["requirements.txt"] == f"{form.format(f'/build/here{wheel}')}\nnumpy\n"
    assert found[f"here{wheel}"] == "the wheel"


def test_only_packages_of_a_directory_are_included(wheel: Path):
    (wheel.parent / "secret.txt").write_text("hush")
    found = files(BuildContext([f"--find-links {wheel.parent}"], {}))
    assert found["requirements.txt"] == f"--find-links /build/here{wheel.parent}\n"
    assert set(found) == {"requirements.txt", "install", f"here{wheel}"}


@pytest.mark.parametrize(
    "line",
    [
        "/etc/passwd",
        "-r /etc/passwd",
        "https://index.example/simple/own-1.0.whl",
        "--index-url https://index.example/simple",
        "own @ https://host/etc/hosts",
        "./etc/passwd",
    ],
)
def test_other_files_of_this_machine_are_not_read(line: str):
    found = files(BuildContext([line], {}))
    assert found["requirements.txt"] == f"{line}\n"
    assert set(found) == {"requirements.txt", "install"}


def test_files_in_variables_of_pip_are_included(tmp_path: Path):
    certificates = tmp_path / "ca.pem"
    certificates.write_text("trusted")
    environment = {
        "PIP_CERT": str(certificates),
        "PIP_INDEX_URL": "https://user:pass@index.example/it's",
    }
    found = files(BuildContext(["numpy"], environment))
    assert found[f"here{certificates}"] == "trusted"
    assert f"export PIP_CERT=/build/here{certificates}\n" in found["install"]
    assert "export PIP_INDEX_URL='https://user:pass@index.example/it'\"'\"'s'\n" in found["install"]


def test_wheels_that_travelled_are_included(tmp_path: Path):
    sha256 = "0" * 64
    (tmp_path / sha256).write_text("the wheel")
    line = f"wheels/{sha256}/own-1.0-py3-none-any.whl"
    found = files(BuildContext([line, "numpy"], {}, tmp_path))
    assert found["requirements.txt"] == f"/build/{line}\nnumpy\n"
    assert found[line] == "the wheel"

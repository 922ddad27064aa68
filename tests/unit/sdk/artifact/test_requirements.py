import hashlib
from pathlib import Path

import numpy as np
import pytest

from skysail.artifact.build import build_artifact
from skysail.artifact.requirements import distribution_name, merge_requirements, send_wheels
from skysail.errors import InvalidInput
from skysail_testing.container_managers import make_wheel

DEFAULTS = ("xgboost==2.1.4", "scikit-learn==1.5.0")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Scikit_Learn>=1.4", "scikit-learn"),
        ("xgboost==2.1.4 --hash=sha256:00", "xgboost"),
        ("xgboost==2.1.4 \\", "xgboost"),
        ("xgboost[plot] ; python_version > '3'", "xgboost"),
        ("own @ https://host/own.whl", "own"),
        ("./dist/own_package-1.0-py3-none-any.whl", "own-package"),
        ("https://host/own_package-1.0-py3-none-any.whl#sha256=0", "own-package"),
        ("git+https://host/repository#egg=own_package", "own-package"),
        ("--extra-index-url https://host", ""),
        ("-r more.txt", ""),
    ],
)
def test_the_distribution_of_a_requirement(line: str, name: str):
    assert distribution_name(line) == name


def test_requirements_of_the_user_replace_defaults_of_the_same_distribution():
    assert merge_requirements(["Xgboost>=2"], DEFAULTS) == ("Xgboost>=2", "scikit-learn==1.5.0")
    assert merge_requirements([], DEFAULTS) == DEFAULTS
    assert merge_requirements(["six"], ()) == ("six",)


def test_a_wheel_of_this_machine_travels(tmp_path: Path, monkeypatch):
    wheel = make_wheel(tmp_path, "own_package", "ANSWER = 42")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    sent = f"wheels/{sha256}/own_package-1.0-py3-none-any.whl"
    monkeypatch.chdir(tmp_path)
    given = [
        f"./{wheel.name}",
        str(wheel),
        f"own-package @ file://{wheel}",
        f"{wheel.name} ; python_version > '3'",
        "numpy",
        "/of/the/cluster.whl",
        "--find-links /of/the/cluster",
    ]
    lines, wheels = send_wheels(given)
    assert lines == (sent, sent, sent, f"{sent} ; python_version > '3'", *given[4:])
    assert wheels == {sent: wheel}
    assert distribution_name(sent) == "own-package"
    artifact = build_artifact(lambda x: x, example=np.ones((1, 2)), requirements=given[:1])
    assert artifact.manifest.requirements == (sent,)
    assert sent in {blob.path for blob in artifact.manifest.blobs}


@pytest.mark.parametrize("line", [".", "./project", "-e ./project", "../gone.whl"])
def test_a_relative_path_that_is_no_wheel_is_refused(line: str, tmp_path: Path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="it is no wheel on this machine"):
        send_wheels([line])


def test_a_list_with_hashes_gets_no_defaults():
    given = ["six==1.0 --hash=sha256:00"]
    assert merge_requirements(given, DEFAULTS) == tuple(given)

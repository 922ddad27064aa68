"""Checks of models in real clean environments, without a cluster and without the network."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import skysail
from skysail.errors import InvalidInput
from skysail_testing.container_managers import make_wheel

ROW = np.ones((1, 3))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep environments in a directory of this module, and find no package index."""
    directory = tmp_path_factory.getbasetemp() / "check-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return directory / "skysail" / "environments"


def test_a_model_that_a_replica_can_serve(cache: Path):
    report = skysail.check(lambda x: x * 2, example=ROW, name="double", gpus=1, num_replicas=2)
    assert report
    assert report.problem == ""
    assert report.signature.inputs[0].shape == (-1, 3)
    assert report.load_s > 0
    assert report.answer_s > 0
    assert repr(report) == "<CheckReport, a replica can serve the model>"
    assert "inputs        x FP64 [-1, 3]" in str(report)
    # The next check finds its environment.
    made = {path.name: path.stat().st_ino for path in cache.iterdir()}
    assert skysail.check(lambda x: x * 3, example=ROW)
    assert {path.name: path.stat().st_ino for path in cache.iterdir()} == made


def test_a_missing_package_is_named():
    def predict(x):
        import sklearn

        return x + len(sklearn.__version__) * 0

    report = skysail.check(predict, example=ROW)
    assert not report
    assert "No module named 'sklearn'" in report.problem
    assert "scikit-learn==" in report.problem
    assert report.problem.endswith("; add it to pkgs_to_install (--pkg)")
    assert "Traceback" in report.log
    # The problem tells the cause, and the log begins in the function.
    assert "No module named" not in report.log
    assert "skysail_model_server" not in report.log


def test_packages_are_installed(tmp_path: Path, monkeypatch):
    make_wheel(tmp_path, "own_package", "ANSWER = 42.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    def answer(texts):
        import own_package

        return [own_package.ANSWER for _ in texts]

    # The package is not on this machine, so that the function cannot run here.
    report = skysail.check(
        answer, input_type="strings", check=False, pkgs_to_install=["own-package"]
    )
    assert report, report.log
    assert report.requirements == ("own-package",)


def test_a_wheel_of_this_machine_is_installed(tmp_path: Path):
    wheel = make_wheel(tmp_path, "own_wheel", "ANSWER = 42.0")

    def answer(texts):
        import own_wheel

        return [own_wheel.ANSWER for _ in texts]

    report = skysail.check(answer, input_type="strings", check=False, pkgs_to_install=[str(wheel)])
    assert report, report.log


def test_packages_that_cannot_be_installed_are_named():
    lines: list[str] = []
    report = skysail.check(
        lambda x: x, example=ROW, pkgs_to_install=["no-such-package==1.0"], progress=lines.append
    )
    assert report.problem.startswith("cannot install the requirements: ")
    assert "no-such-package==1.0" in report.problem
    assert any("no-such-package" in line for line in lines)


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scale.txt").write_text("2")

    class FromDirectory:
        def load(self, context):
            self.scale = float(Path("scale.txt").read_text())

        def predict(self, x):
            return x * self.scale

    class FromContext(FromDirectory):
        def load(self, context):
            self.scale = float(context.file("scale.txt").read_text())

    report = skysail.check(FromDirectory, example=ROW)
    assert "scale.txt is not in the replica: put it beside the module" in report.problem
    assert "files= (--file scale.txt=PATH)" in report.problem
    assert "(in load, line 2 of its code)" in report.problem
    assert skysail.check(FromContext, example=ROW, files={"scale.txt": "scale.txt"})


def test_a_missing_module_is_named(tmp_path: Path, monkeypatch):
    (tmp_path / "own_helpers.py").write_text("SCALE = 2\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def predict(x):
        import importlib

        return x * importlib.import_module("own_" + "helpers").SCALE

    report = skysail.check(predict, example=ROW)
    assert (
        "the module 'own_helpers' is not here: name it in code= (--code) if it is yours"
        in report.problem
    )
    assert skysail.check(predict, example=ROW, code=["own_helpers"])


def test_a_model_sees_the_variables_of_the_replica(monkeypatch):
    monkeypatch.setenv("OWN_KEY", "of the shell")

    def predict(texts):
        import os

        return [os.environ["OWN_KEY"] for _ in texts]

    class Loaded:
        def load(self, context):
            import os

            self.key = os.environ["OWN_KEY"]

        def predict(self, x):
            return x

    assert "KeyError: 'OWN_KEY'" in skysail.check(Loaded, example=ROW).problem
    assert skysail.check(Loaded, example=ROW, environment={"OWN_KEY": "given"})


def test_a_model_that_does_not_end_is_killed():
    class Endless:
        def load(self, context):
            import sys
            import threading

            if sys.flags.isolated:
                threading.Event().wait()

        def predict(self, x):
            return x

    report = skysail.check(Endless, example=ROW, timeout_s=5)
    assert report.problem == (
        "loading the model failed: it does not answer within 5 s; see the log"
    )


def test_a_process_that_dies_is_reported():
    class Dying:
        def load(self, context):
            import os
            import sys

            if sys.flags.isolated:
                os.abort()

        def predict(self, x):
            return x

    assert "its process ended with status -6" in skysail.check(Dying, example=ROW).problem


def test_the_arguments_are_those_of_deploy():
    with pytest.raises(InvalidInput, match="deploy has no argument 'sample'"):
        skysail.check(lambda x: x, sample=ROW)
    with skysail.Client("127.0.0.1:1") as client:
        assert client.check(lambda x: x, example=ROW)


async def test_the_asynchronous_client_checks_too():
    async with skysail.AsyncClient("127.0.0.1:1") as client:
        assert await client.check(lambda x: x, example=ROW)


def test_the_command_has_an_exit_status_and_names_what_is_missing(tmp_path: Path):
    (tmp_path / "mymodel.py").write_text(
        "import numpy as np\n"
        "example = np.ones((1, 3))\n"
        "def predict(x):\n    return x * 2\n"
        "def needy(x):\n    import sklearn\n    return x\n"
    )

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "skysail", "check", *arguments, "--example", "mymodel:example"],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    done = run("mymodel:predict")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "a replica can serve the model")
    done = run("mymodel:needy")
    assert done.returncode == 1
    assert "add it to pkgs_to_install" in done.stdout.splitlines()[-1]
    assert "Traceback" in done.stderr
    done = run("mymodel:needy", "-o", "json")
    assert done.returncode == 1
    assert "add it to pkgs_to_install" in json.loads(done.stdout)["problem"]

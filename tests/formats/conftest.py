"""The cases of all formats, deployed to one cluster of a process."""

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import skysail
from formats.case import Case
from skysail.artifact.build import Artifact, build_artifact

_FOLDER = Path(__file__).parent

# TensorFlow and torch leave files of the process in the directory for temporary files.
_LEFT_BY_LIBRARIES = ("__autograph_generated_file*", "__pycache__", "torchinductor_*", ".ses")


@pytest.fixture(scope="session", autouse=True)
def no_files_of_libraries() -> Iterator[None]:
    yield
    for pattern in _LEFT_BY_LIBRARIES:
        for path in Path(tempfile.gettempdir()).glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _all_cases() -> list[Case]:
    files = sorted((_FOLDER / "cases").glob("*.py"))
    modules = [importlib.import_module(f"formats.cases.{file.stem}") for file in files]
    return [case for module in modules for case in module.CASES]


@dataclass
class Deployed:
    """A case whose model is version 1 in the cluster."""

    case: Case
    client: skysail.Client
    model: Any
    directory: Path
    version: skysail.Version
    artifact: Artifact
    """The same artifact, built once more."""

    @property
    def name(self) -> str:
        return self.case.name

    def deploy(self, model: Any, version: str, **options: Any) -> skysail.Version:
        return deploy(self.client, self.case, model, version, **options)


def deploy(
    client: skysail.Client, case: Case, model: Any, version: str, **options: Any
) -> skysail.Version:
    return client.deploy(
        model,
        name=case.name,
        version=version,
        example=case.example(),
        start_timeout_s=case.timeout_s,
        **case.options,
        **options,
    )


# Every test of a case runs before the next case, so that few models are up at once.
@pytest.fixture(scope="module", params=[pytest.param(case, id=case.name) for case in _all_cases()])
def deployed(request: pytest.FixtureRequest, client: skysail.Client) -> Iterator[Deployed]:
    case: Case = request.param
    if reason := case.missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as directory:
        model = case.make(0, Path(directory))
        version = deploy(client, case, model, "1")
        artifact = build_artifact(model, example=case.example(), **case.options)
        yield Deployed(case, client, model, Path(directory), version, artifact)
        artifact.close()
        for each in client.describe_model(case.name).versions:
            client.undeploy(case.name, each.version, force=True)
    case.finish()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_FOLDER):
            # Warnings of the libraries are no failures of ours.
            item.add_marker(pytest.mark.filterwarnings("default"))
            # Some libraries take a minute to start.
            item.add_marker(pytest.mark.timeout(400))

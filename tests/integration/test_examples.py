"""Every example runs as it stands, on the shared cluster."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skysail_testing.clusters import RunningCluster

EXAMPLES = Path(__file__).parents[2] / "examples"
NODE_CLIENT = EXAMPLES / "node_client"
PROGRAMS = [*EXAMPLES.glob("[!_]*.py"), NODE_CLIENT / "client.js"]
MAX_LINES = 30


def run(cluster: RunningCluster, *command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "SKYSAIL_ENDPOINT": cluster.management, **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_example(cluster: RunningCluster, name: str, *arguments: str) -> str:
    return run(cluster, sys.executable, EXAMPLES / name, *arguments)


def test_iris_classifier(cluster: RunningCluster):
    assert run_example(cluster, "iris_classifier.py") == "virginica (98%)\n"


def test_two_inputs(cluster: RunningCluster):
    output = run_example(cluster, "two_inputs.py")
    assert re.fullmatch(r"16094 km in \d+\.\d ms\n", output)


def test_strings(cluster: RunningCluster):
    assert run_example(cluster, "strings.py").splitlines() == [
        "{'sails': 1, 'carry': 1, 'ships': 1}",
        "{'ships': 2, 'carry': 2, 'sails': 1, 'sailors': 1}",
    ]


def test_triton_client(cluster: RunningCluster):
    output = run_example(cluster, "triton_client.py", cluster.grpc)
    assert output == "[-1, 3]\n[[0.6   0.8   0.   ]\n [0.    0.385 0.923]]\n"


def test_default_output(cluster: RunningCluster):
    assert run_example(cluster, "default_output.py").splitlines() == [
        "2 rooms: 500.0 OK",
        "5 rooms: -1.0 DEFAULT_DEADLINE",
    ]


@pytest.fixture(scope="module")
def node_modules() -> Path:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node: Node and npm are not installed")
    lock = (NODE_CLIENT / "package-lock.json").read_bytes()
    # A single installation serves all runs, because it takes seconds and needs the registry.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "skysail" / "node-example"
    if not (directory / "node_modules").is_dir() or (
        (directory / "package-lock.json").read_bytes() != lock
    ):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE_CLIENT / name, directory)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            subprocess.run(command, cwd=directory, capture_output=True, timeout=60, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            shutil.rmtree(directory)
            pytest.skip(f"no node: npm cannot install the packages of the example: {error}")
    return directory / "node_modules"


def test_node_client(cluster: RunningCluster, node_modules: Path):
    run_example(cluster, "iris_classifier.py")
    program = NODE_CLIENT / "client.js"
    output = run(cluster, "node", program, cluster.grpc, NODE_PATH=str(node_modules))
    assert re.fullmatch(r"virginica by version \d+\n", output)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_an_example_is_short_and_in_the_index(program: Path):
    assert len(program.read_text().splitlines()) <= MAX_LINES
    name = program.relative_to(EXAMPLES).as_posix()
    assert f"[{name}]({name})" in (EXAMPLES / "README.md").read_text()

"""The code on the page about deploying works as it stands."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import skysail
from skysail_testing.clusters import RunningCluster

PAGE = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text()


def blocks_under(heading: str) -> list[str]:
    """Return the Python blocks of a section."""
    _, section = re.split(rf"^##+ {heading}\n", PAGE, maxsplit=1, flags=re.MULTILINE)
    section = re.split(r"^##+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def run(cluster: RunningCluster, directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**os.environ, "SKYSAIL_ENDPOINT": cluster.management},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# A stand-in for ONNX Runtime, which the tests do not install: it computes but cannot be pickled.
ONNXRUNTIME = """
    import threading

    class InferenceSession:
        num_made = 0

        def __init__(self, content):
            assert content == b"the weights"
            self.lock = threading.Lock()

        def run(self, names, inputs):
            with self.lock:
                return [inputs["x"] * 2]
"""


def test_a_session_is_made_on_first_use(
    cluster: RunningCluster, client: skysail.Client, tmp_path: Path
):
    (tmp_path / "onnxruntime.py").write_text(textwrap.dedent(ONNXRUNTIME))
    (tmp_path / "model.onnx").write_bytes(b"the weights")
    (block,) = blocks_under("Objects that cannot be pickled")
    # The script calls the function before its first deploy, and then deploys it again.
    tried = "\npredict(np.ones((1, 4), np.float32))\nclient.deploy(predict, name='onnx', "
    again = "example=np.ones((1, 4), np.float32))\n"
    (tmp_path / "deploy.py").write_text(block + tried + again)
    run(cluster, tmp_path, "deploy.py")
    answer = client.predict("onnx", np.array([1, 2, 3, 4], np.float32))
    assert answer.output.tolist() == [2, 4, 6, 8]
    assert [version.version for version in client.describe_model("onnx").versions] == ["1"]


def test_a_package_with_data_files_is_deployed(
    cluster: RunningCluster, client: skysail.Client, tmp_path: Path
):
    for block in blocks_under("Files"):
        name = re.match(r"# (\S+)\n", block)
        assert name is not None
        (tmp_path / name[1]).parent.mkdir(exist_ok=True)
        (tmp_path / name[1]).write_text(block)
    (tmp_path / "vocabulary" / "words.json").write_text('["a", "good"]')
    run(cluster, tmp_path, "deploy.py")
    assert client.predict("count", "a good day").output == 2


# The program runs cells as a kernel does: each cell is a file named for process and cell.
KERNEL = """
import linecache, os, sys

namespace = {"__name__": "__main__"}
for number, cell in enumerate(open(sys.argv[1]).read().split("# In[")[1:]):
    name = f"/tmp/ipykernel_{os.getpid()}/{abs(hash(cell))}.py"
    source = cell.partition("]:")[2]
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    sys.modules["__main__"].__dict__.update(namespace)
    exec(compile(source, name, "exec"), sys.modules["__main__"].__dict__)
"""


@pytest.mark.parametrize(
    "change",
    [("", ""), ("def predict(x):", "# What answers.\n\ndef predict(x):  # A line.")],
    ids=["as it is", "with comments"],
)
def test_a_notebook_can_run_again_from_top_to_bottom(
    cluster: RunningCluster, client: skysail.Client, tmp_path: Path, change: tuple[str, str]
):
    (block,) = blocks_under("Run a notebook again")
    printed = []
    for index, text in enumerate([block, block.replace(*change)]):
        directory = tmp_path / f"checkout{index}"
        directory.mkdir()
        (directory / "notebook.py").write_text(text)
        (directory / "kernel.py").write_text(KERNEL)
        printed.append(run(cluster, directory, "kernel.py", "notebook.py").split()[-1])
    assert printed == ["1", "1"]
    assert client.predict("linear", np.ones(4)).output.shape == (2,)
    (version,) = client.describe_model("linear").versions
    assert version.num_ready == 1


def test_resources_and_variables(cluster: RunningCluster, client: skysail.Client, tmp_path: Path):
    (block,) = blocks_under("Set resources and variables")
    (tmp_path / "deploy.py").write_text(block)
    printed = run(cluster, tmp_path, "deploy.py")
    assert printed == "{'owner': 'pricing'} ('SCALE',)\n[2. 2. 2. 2.]\n"
    client.undeploy("scaled", "1", force=True)
    assert client.start("scaled", "1", cpus=2).deployment.cpus == 2
    assert client.predict("scaled", np.ones(4)).output.tolist() == [2, 2, 2, 2]


def test_outputs_may_vary_in_size(client: skysail.Client):
    def spans(texts):
        return np.zeros((len(texts), max(len(text.split()) for text in texts), 2))

    client.deploy(spans, name="spans", examples=[["two words"], ["now three words"]])
    for text, size in (("one", 1), ("these are four words", 4)):
        assert client.predict("spans", text).output.shape == (size, 2)


def test_functions_of_one_input_coroutines_and_parameters(
    cluster: RunningCluster, client: skysail.Client, tmp_path: Path
):
    headings = (
        "Health checks of a model",
        "Take one input at a time",
        "Wait for others in coroutines",
        "Take parameters of queries",
    )
    blocks = [block for heading in headings for block in blocks_under(heading)]
    begin = "import numpy as np\nimport skysail\n\nclient = skysail.Client()\n"
    program = begin + "\n".join(blocks)
    for expression in ('client.predict("norm"', 'client.predict("is-over"'):
        program = program.replace(expression, f"answer = {expression}")
    program = program.replace(".output  #", ".output; print(answer)  #")
    (tmp_path / "deploy.py").write_text(program)
    assert run(cluster, tmp_path, "deploy.py").split() == ["5.0", "True"]
    assert client.predict("slow-double", 4.0).output == 8

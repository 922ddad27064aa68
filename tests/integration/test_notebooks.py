"""Deploys from a real kernel of IPython."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skysail

jupyter_client = pytest.importorskip("jupyter_client", reason="jupyter_client is not installed")

_CELL_S = 90


class Notebook:
    """A kernel that runs cells one after another."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, cell: str) -> tuple[str, list[str], str]:
        """Run a cell; return what it printed, its displays in order, and the text of its error."""
        request = self._client.execute(textwrap.dedent(cell))
        printed, displays, error = "", [], ""
        while True:
            message = self._client.get_iopub_msg(timeout=_CELL_S)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
            elif kind in ("display_data", "update_display_data"):
                displays.append(content["data"]["text/plain"])
            elif kind == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                return printed, displays, error


@pytest.fixture(scope="module")
def notebook(cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    directory = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(name, str(directory / name))
        manager, client = jupyter_client.manager.start_new_kernel(
            kernel_name="python3", cwd=str(directory)
        )
    try:
        notebook = Notebook(client)
        _, _, error = notebook.run(
            f"""
            import numpy as np, skysail
            client = skysail.Client({cluster.management!r}, query_endpoint={cluster.grpc!r})
            row = np.ones((1, 2))
            """
        )
        assert not error
        yield notebook
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def predicted(client: skysail.Client, model: str) -> list[float]:
    return client.predict(model, [1.0, 2.0], timeout_s=10).output.tolist()


def test_a_function_of_a_cell_deploys_with_progress_in_place(notebook, client):
    printed, displays, error = notebook.run(
        """
        weights = np.full((3_000_000, 2), 3.0)
        def predict(x):
            return x * weights[0]
        found = client.deploy(predict, name="cell", example=row)
        print(found.version)
        """
    )
    assert not error
    assert printed.split()[-1] == "1"
    assert displays[-1].splitlines()[0] == "deploying cell"
    assert displays[-1].splitlines()[-1].endswith("cell:1 is deployed")
    assert any("uploading " in each and "MiB/s" in each for each in displays)
    assert predicted(client, "cell") == [3.0, 6.0]


def test_a_changed_cell_is_what_is_deployed(notebook, client):
    _, _, error = notebook.run(
        """
        def predict(x):
            return x * 5
        client.deploy(predict, name="cell", example=row)
        """
    )
    assert not error
    assert predicted(client, "cell") == [5.0, 10.0]


@pytest.mark.parametrize("magic", ["%autoreload 2", "import importlib"])
def test_an_edited_module_is_what_is_deployed(notebook, client, magic, tmp_path: Path):
    name = f"edited_{tmp_path.name.rstrip('0123456789').rpartition('_')[2] or 'x'}{len(magic)}"
    reload = f"importlib.reload({name})" if "importlib" in magic else ""
    file = tmp_path / f"{name}.py"
    file.write_text("FACTOR = 2\ndef predict(x):\n    return x * FACTOR\n")
    _, _, error = notebook.run(
        f"""
        %load_ext autoreload
        {magic}
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import {name}
        client.deploy({name}.predict, name={name!r}, example=row)
        """
    )
    assert not error
    assert predicted(client, name) == [2.0, 4.0]
    file.write_text("FACTOR = 7\ndef predict(x):\n    return x * FACTOR + 1  # another size\n")
    _, _, error = notebook.run(
        f"{reload}\nclient.deploy({name}.predict, name={name!r}, example=row)"
    )
    assert not error
    assert predicted(client, name) == [8.0, 15.0]
    assert notebook.run("%autoreload 0")[2] == ""


def test_an_error_names_the_line_of_the_cell(notebook):
    _, _, error = notebook.run(
        """
        def broken(x):
            y = x + 1
            return y @ np.ones((9, 9))
        client.deploy(broken, name="broken", example=row)
        """
    )
    assert error.startswith("ModelFailed: the function failed on the example: ValueError: matmul")
    assert "; in cell In[" in error
    assert error.endswith("], line 3")


def test_the_asynchronous_client_works_in_a_cell(notebook):
    printed, _, error = notebook.run(
        """
        async with skysail.AsyncClient(client.endpoint) as other:
            print([model.name for model in await other.models()])
        """
    )
    assert not error
    assert "cell" in printed

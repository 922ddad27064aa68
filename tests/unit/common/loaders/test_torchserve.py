"""The loader of model archives, with handlers that do without torch."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.loaders.base import ModelContext
from skysail_common.loaders.torchserve.loader import TorchServeLoader

Serve = Callable[[str], Any]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return a loader of an archive with this code as its handler."""
    modules, path = set(sys.modules), list(sys.path)

    def load(
        code: str, handler: str = "some_handler.py", owns_process: bool = False, **model: Any
    ) -> Any:
        folder = tmp_path / "model"
        (folder / "MAR-INF").mkdir(parents=True)
        described = {"model": {"modelName": "m", "handler": handler, **model}}
        (folder / "MAR-INF/MANIFEST.json").write_text(json.dumps(described))
        (folder / "some_handler.py").write_text(code)
        (folder / "settings.yaml").write_text("threshold: 3\n")
        context = ModelContext(
            data_directory=tmp_path, directory=tmp_path, name="m", owns_process=owns_process
        )
        return TorchServeLoader({}).load(context)

    yield load
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_function_answers(serve: Serve):
    predict = serve("def handle(data, context):\n    return [row['body'] for row in data or ()]\n")
    assert predict([b"text", b"\xff\xfe"]) == ["text", "//4="]


def test_a_function_of_another_name_answers(serve: Serve):
    code = "def score(data, context):\n    return [len(row['body']) for row in data or ()]\n"
    assert serve(code, "some_handler.py:score")([b"four", b""]) == [4, 0]


CLASS = """
from ts.context import Context


class Base:
    def handle(self, data, context):
        raise NotImplementedError


class Handler(Base):
    def initialize(self, context: Context):
        assert context.system_properties["gpu_id"] is None
        self.folder = context.system_properties["model_dir"]
        self.name = context.manifest["model"]["modelName"]
        self.config = context.model_yaml_config

    def handle(self, data, context):
        assert context.get_request_header(0, "content-type") is None
        sizes = [context.system_properties["batch_size"]] * len(data)
        return [[self.name, self.config, context.get_request_id(0), size] for size in sizes]
"""


def test_a_class_is_initialized_with_the_context(serve: Serve):
    predict = serve(CLASS, configFile="settings.yaml")
    assert predict([b"", b""]) == [["m", {"threshold": 3}, "0", 2]] * 2


def test_bodies_are_parsed_as_torchserve_does(serve: Serve):
    kinds = (
        "def handle(data, context):\n    return [type(row['body']).__name__ for row in data or ()]"
    )
    predict = serve(kinds)
    assert predict([b"{}", '{"n": 1}', "[1]", "text", "7", "{no json"]) == [
        "bytearray", "dict", "list", "bytearray", "bytearray", "bytearray",
    ]  # fmt: skip


def test_a_status_of_an_error_fails_the_query(serve: Serve):
    code = """
def handle(data, context):
    if data:
        context.set_response_status(code=422, phrase="too long", idx=1)
    return data and ["x"] * len(data)
"""
    with pytest.raises(ModelFailed, match="status 422: too long"):
        serve(code)([b"", b""])


def test_metrics_are_dropped(serve: Serve):
    code = """
def handle(data, context):
    metric = context.metrics.add_metric_to_cache("seen", "count")
    metric.add_or_update(1)
    context.metrics.add_time("took", 3, None, "ms")
    return data and ["x"] * len(data)
"""
    assert serve(code)([b""]) == ["x"]


def test_a_handler_runs_in_its_own_copy_of_the_archive(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    code = """
import os
import pathlib


class Handler:
    def initialize(self, context):
        assert os.getcwd() == context.system_properties["model_dir"]
        with open("settings.yaml", "a") as file:
            file.write("more: 1\\n")

    def handle(self, data, context):
        return [os.path.getsize("weights.bin"), pathlib.Path("settings.yaml").read_text()]
"""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights.bin").write_bytes(bytes(2 << 20))
    predict = serve(code, owns_process=True)
    assert predict([b""]) == [2 << 20, "threshold: 3\nmore: 1\n"]
    assert (tmp_path / "model/settings.yaml").read_text() == "threshold: 3\n"


def test_a_file_that_the_archive_lacks_is_named(serve: Serve):
    with pytest.raises(
        InvalidInput, match=r"'labels.json', which is not in the archive; add .*--extra"
    ):
        serve("open('labels.json')\n")


def test_a_module_that_skysail_lacks_is_named(serve: Serve):
    code = "from ts.torch_handler.text_classifier import TextClassifier\n"
    with pytest.raises(ImportError, match=r"offers ts.context, .*\['torchserve', 'captum'\]"):
        serve(code)


def test_a_member_that_skysail_lacks_is_named(serve: Serve):
    with pytest.raises(ImportError, match="cannot import name 'Missing'"):
        serve("from ts.context import Missing\n")


@pytest.mark.parametrize(
    ("code", "has"),
    [("x = 1\n", "none"), ("class A:\n handle = 1\nclass B:\n handle = 1\n", "A, B")],
)
def test_a_file_without_one_handler_is_refused(serve: Serve, code: str, has: str):
    with pytest.raises(InvalidInput, match=f"and has {has}; correct the handler"):
        serve(code)

"""The code and the curl lines of docs/coming-from/torchserve.md run as they stand."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

import skysail
from skysail_testing.clusters import RunningCluster

PAGE = (Path(__file__).parents[2] / "docs/coming-from/torchserve.md").read_text(encoding="utf-8")
HANDLER = """
import json


class Echo:
    def initialize(self, context):
        with open("index_to_name.json") as file:
            self.name = json.load(file)["0"]

    def handle(self, data, context):
        bodies = [row["body"] for row in data]
        return [
            [self.name, len(each) if isinstance(each, bytearray) else each] for each in bodies
        ]
"""
IMAGE = b"\xff\xd8\xff\xe0"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(each) for each in found]


def test_the_page_runs(cluster: RunningCluster, tmp_path: Path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "model_store").mkdir()
    for name in ("reviews", "photos"):
        with zipfile.ZipFile(tmp_path / f"model_store/{name}.mar", "w") as archive:
            model = {"modelName": name, "modelVersion": "7.0", "handler": "handler.py"}
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
            archive.writestr("handler.py", HANDLER)
            archive.writestr("index_to_name.json", '{"0": "good"}')
    (tmp_path / "review.txt").write_text("a good film")
    (tmp_path / "cat.jpg").write_bytes(IMAGE)
    environment = {**os.environ, "SKYSAIL_DATA_DIR": str(cluster.data_dir)}
    python = [sys.executable, "-W", "ignore", "-c", "\n".join(blocks("py"))]
    curl = "\n".join(blocks("bash")).replace("localhost:8000", cluster.http)
    shell = ["bash", "-c", curl.replace("curl ", "curl -sS ").replace("\n", "\necho;")]
    shown = []
    for command in (python, shell):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=100, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout.splitlines())
    assert shown[0] == ["['good', 11]"]
    answers = [json.loads(line)["output"] for line in shown[1] if line]
    assert answers == [["good", 11], ["good", {"instances": [6, 3, 5, 2]}], ["good", len(IMAGE)]]


def test_a_failed_load_says_how_to_mend_the_archive(client: skysail.Client, tmp_path: Path):
    for code, remedy in (
        ("open('labels.json')\n", "labels.json.* --extra-files"),
        ("from ts.torch_handler.text_classifier import TextClassifier\n", "'captum'"),
    ):
        with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
            model = {"modelName": "m", "handler": "handler.py"}
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
            archive.writestr("handler.py", code)
        with pytest.raises(skysail.errors.SkysailError, match=remedy) as caught:
            client.deploy(tmp_path / "m.mar", name="mends")
        assert "context.file" not in str(caught.value)
        assert "code=" not in str(caught.value)

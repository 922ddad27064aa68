"""Handlers of model archives that the contract does not run."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import skysail
from formats import unpacked
from skysail.artifact.build import build_artifact
from skysail_common.json_or_text import value_of

torch = pytest.importorskip("torch")


def archive(path: Path, files: dict[str, bytes], **model: Any) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": "m", **model}}))
        for name, content in files.items():
            out.writestr(name, content)
    return path


def scripted(module: Any) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), buffer)
    return buffer.getvalue()


def answers(path: Path, directory: Path, bodies: list[Any]) -> list[Any]:
    artifact = build_artifact(path, input_type="bytes")
    unpacked.write(artifact, directory)
    artifact.close()
    (found,) = unpacked.load(directory).predict([np.array(bodies, object)], len(bodies))
    return [value_of(each) for each in found]


def test_the_image_classifier_answers_as_that_of_torchvision(tmp_path: Path):
    transforms = pytest.importorskip("torchvision").transforms
    image_module = pytest.importorskip("PIL.Image")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.AvgPool2d(56), torch.nn.Flatten(), torch.nn.Linear(48, 6))
    labels = {str(index): [f"n{index}", f"class {index}"] for index in range(6)}
    path = archive(
        tmp_path / "m.mar",
        {"net.pt": scripted(net), "index_to_name.json": json.dumps(labels).encode()},
        handler="image_classifier",
        serializedFile="net.pt",
    )
    pixels = np.random.default_rng(0).integers(0, 256, size=(300, 400, 3), dtype=np.uint8)
    image = image_module.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    (found,) = answers(path, tmp_path / "a", [buffer.getvalue()])

    prepared = transforms.Compose([
        transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])(image)  # fmt: skip
    with torch.inference_mode():
        shares = torch.softmax(net(prepared[None]), 1)[0]
    best = shares.argsort(descending=True)[:5].tolist()
    assert list(found) == [f"class {index}" for index in best]
    np.testing.assert_allclose(list(found.values()), shares[best], rtol=1e-4)


def test_the_base_handler_answers_lists_of_numbers(client: skysail.Client, tmp_path: Path):
    net = torch.nn.Linear(3, 2)
    code = """
from ts.torch_handler.base_handler import BaseHandler


class Rows(BaseHandler):
    def preprocess(self, data):
        return super().preprocess([row["body"] for row in data])
"""
    path = archive(
        tmp_path / "rows.mar",
        {"handler.py": code.encode(), "net.pt": scripted(net)},
        handler="handler.py",
        serializedFile="net.pt",
    )
    version = client.deploy(path, name="rows", input_type="floats")
    row = np.array([1, 2, 3], np.float32)
    found = client.predict("rows", row).output
    np.testing.assert_allclose(found, net(torch.from_numpy(row)).detach(), rtol=1e-5)
    client.undeploy("rows", version.version, force=True)


def test_a_bad_request_fails_alone(client: skysail.Client, tmp_path: Path):
    code = """
def handle(data, context):
    return data and [row["body"]["n"] + 1 for row in data]
"""
    path = archive(tmp_path / "next.mar", {"handler.py": code.encode()}, handler="handler.py")
    version = client.deploy(path, name="next")
    good = [json.dumps({"n": number}) for number in range(20)]
    with pytest.raises(skysail.errors.ModelFailed, match="input 7: TypeError"):
        client.predict_batch("next", [*good[:7], "no JSON", *good[7:]])
    found = client.predict_batch("next", good)
    assert [each.output for each in found] == list(range(1, 21))
    client.undeploy("next", version.version, force=True)

from pathlib import Path

import pytest

from skysail.packaging.onnx_files import external_files
from skysail_common.errors import InvalidInput


def message(*fields: tuple[int, bytes | int]) -> bytes:
    """Return fields as protobuf writes them, all with numbers below 128."""
    out = b""
    for number, value in fields:
        wire = 0 if isinstance(value, int) else 2
        tag = number << 3 | wire
        out += bytes([tag & 0x7F | 0x80, tag >> 7])
        out += (
            bytes([value])
            if isinstance(value, int)
            else bytes([len(value) & 0x7F | 0x80, len(value) >> 7]) + value
        )
    return out


def tensor(location: str) -> bytes:
    entries = [
        message((1, b"location"), (2, location.encode())),
        message((1, b"offset"), (2, b"0")),
    ]
    return message((1, 4), (8, b"weights"), (14, 1), *((13, each) for each in entries))


def model(graph: bytes) -> bytes:
    return message((1, 9), (2, b"producer"), (7, graph))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    for name in ("a.bin", "weights/b.bin", "c.bin"):
        (tmp_path / name).write_bytes(b"0")
    return tmp_path


def test_the_files_of_all_tensors_are_found(folder: Path):
    constant = message((5, message((1, b"value"), (5, tensor("weights/b.bin")))))
    branch = message((1, b"then"), (6, message((5, tensor("c.bin")))))
    graph = message((5, tensor("a.bin")), (1, constant), (1, message((5, branch))), (2, b"g"))
    (folder / "m.onnx").write_bytes(model(graph))
    assert external_files(folder / "m.onnx") == {
        name: folder / name for name in ("a.bin", "c.bin", "weights/b.bin")
    }


def test_a_model_with_its_weights_inside_has_no_other_file(folder: Path):
    (folder / "m.onnx").write_bytes(model(message((5, message((9, bytes(range(200))))))))
    assert external_files(folder / "m.onnx") == {}


@pytest.mark.parametrize("location", ["../a.bin", "/etc/passwd", "x/../../a.bin"])
def test_a_file_outside_of_the_folder_is_refused(folder: Path, location: str):
    (folder / "m.onnx").write_bytes(model(message((5, tensor(location)))))
    with pytest.raises(InvalidInput, match="outside of its directory"):
        external_files(folder / "m.onnx")


def test_an_absent_file_is_named(folder: Path):
    (folder / "m.onnx").write_bytes(model(message((5, tensor("gone.bin")))))
    with pytest.raises(InvalidInput, match=r"its weights are in 'gone\.bin'"):
        external_files(folder / "m.onnx")


def test_damaged_models_are_refused_or_name_no_file(folder: Path):
    whole = model(message((5, tensor("a.bin")), (2, b"name of the graph")))
    num_refused = 0
    for size in range(len(whole)):
        (folder / "m.onnx").write_bytes(whole[:size])
        try:
            # A cut between two fields of the model leaves a shorter model.
            assert external_files(folder / "m.onnx") == {}
        except InvalidInput:
            num_refused += 1
    assert num_refused >= len(whole) - 3

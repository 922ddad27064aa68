import io
import json
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.artifacts import (
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    SignatureRecord,
    SpecRecord,
    example_file,
    file_sha256,
    is_sha256,
    read_manifest,
    to_json,
)
from skysail_common.errors import InvalidInput
from skysail_common.tensors import Content, DataType, Signature, TensorSpec
from skysail_testing.examples import examples

SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 3)), TensorSpec("y", DataType.BF16, (-1, -1))),
    (TensorSpec("output", DataType.BYTES, (-1,), Content.TEXT),),
)
MANIFEST = Manifest(
    skysail_version="0.1.0",
    python_version="3.11.7",
    packages={"numpy": "2.4.6"},
    requirements=("numpy>=2",),
    signature=SignatureRecord.of(SIGNATURE),
    calling="keywords",
    examples=(((2, 3), (2, 1)),),
)


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer


def artifact(**changes: object) -> io.BytesIO:
    record = {**MANIFEST.model_dump(mode="json"), **changes}
    record = {name: value for name, value in record.items() if value is not None}
    return archive({MANIFEST_FILE: to_json(record).encode(), MODEL_FILE: b"pickle"})


def refusal(file: io.BytesIO) -> str:
    with pytest.raises(InvalidInput) as caught:
        read_manifest(file)
    return caught.value.message


def test_a_manifest_is_read_back_from_the_artifact(tmp_path):
    assert read_manifest(artifact()) == MANIFEST
    path = tmp_path / "artifact"
    path.write_bytes(artifact().getvalue())
    assert read_manifest(path) == MANIFEST
    assert read_manifest(path).signature.signature() == SIGNATURE


def test_optional_fields_of_a_manifest_have_defaults():
    manifest = read_manifest(
        artifact(packages=None, requirements=None, calling=None, examples=None, format=None)
    )
    assert manifest.packages == {}
    assert manifest.requirements == ()
    assert manifest.calling == "array"
    assert manifest.examples == ()


def test_fields_of_a_later_skysail_are_ignored():
    inputs = [
        {**spec, "novelty": 1} for spec in MANIFEST.model_dump(mode="json")["signature"]["inputs"]
    ]
    outputs = MANIFEST.model_dump(mode="json")["signature"]["outputs"]
    signature = {"inputs": inputs, "outputs": outputs, "novelty": {}}
    assert read_manifest(artifact(novelty=[1, 2], signature=signature)) == MANIFEST


def test_the_record_of_a_specification_survives_json():
    for spec in (*SIGNATURE.inputs, *SIGNATURE.outputs):
        record = SpecRecord.of(spec)
        assert json.loads(record.model_dump_json()) == {
            "name": spec.name,
            "datatype": spec.datatype.name,
            "shape": list(spec.shape),
            "content": spec.content.value,
        }
        assert SpecRecord.model_validate_json(record.model_dump_json()).spec() == spec


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip", b"PK\x03\x04" + b"\0" * 100])
def test_a_file_that_is_not_a_zip_is_refused(content):
    assert refusal(io.BytesIO(content)) == (
        "the file is not an artifact of Skysail: File is not a zip file"
    )


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="the file is not an artifact of Skysail"):
        read_manifest(tmp_path / "nothing")
    with pytest.raises(InvalidInput, match="the file is not an artifact of Skysail"):
        read_manifest(tmp_path)


def test_a_zip_without_a_manifest_or_a_model_is_refused():
    assert MANIFEST_FILE in refusal(archive({}))
    assert MANIFEST_FILE in refusal(archive({MODEL_FILE: b"pickle"}))
    text = MANIFEST.model_dump_json().encode()
    assert MODEL_FILE in refusal(archive({MANIFEST_FILE: text}))


def test_a_huge_manifest_is_not_read():
    text = MANIFEST.model_dump_json().encode()
    padded = text + b" " * (8 * 1024 * 1024 + 1 - len(text))
    message = "the artifact's manifest.json is larger than 8 MiB"
    assert refusal(archive({MANIFEST_FILE: padded, MODEL_FILE: b""})) == message
    assert read_manifest(archive({MANIFEST_FILE: padded[:-1], MODEL_FILE: b""})) == MANIFEST


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_a_manifest_that_is_not_a_json_object_is_refused(text):
    message = refusal(archive({MANIFEST_FILE: text, MODEL_FILE: b""}))
    assert message.startswith("the artifact's manifest.json: text: ")


def spec_with(**changes: object) -> dict[str, object]:
    spec = {"name": "x", "datatype": "FP32", "shape": [-1, 3], "content": 0, **changes}
    return {"inputs": [spec], "outputs": [spec]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": 3},
            "format: Value error, artifact format 3 is unknown; this Skysail reads 1 and 2",
        ),
        ({"python_version": None}, "python_version: Field required"),
        ({"format": 3, "novelty": 1}, "artifact format 3 is unknown"),
        ({"signature": None}, "signature: Field required"),
        ({"calling": "shouting"}, "calling: String should match pattern"),
        ({"packages": ["numpy"]}, "packages: Input should be an object"),
        ({"signature": spec_with(content=7)}, "signature.inputs.0.content: Input should be 0, 1"),
        ({"signature": spec_with(shape=["a"])}, "signature.inputs.0.shape.0: Input should be"),
        ({"signature": spec_with(datatype="FP8")}, "'FP8' is not a datatype"),
        ({"signature": spec_with(shape=[3])}, "must have a batch axis"),
        ({"signature": spec_with(shape=[-1, 0])}, "has an impossible shape"),
        ({"examples": [[[2, 3]]]}, "the artifact's example does not fit its signature"),
        ({"example_shapes": [[2, 3]] * 3}, "the artifact's example does not fit its signature"),
    ],
)
def test_an_inconsistent_manifest_is_refused(changes, message):
    assert message in refusal(artifact(**changes))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@settings(max_examples=examples(75))
@given(data=st.data())
def test_a_damaged_artifact_is_refused_or_still_holds_its_manifest(method, data):
    members = {MANIFEST_FILE: MANIFEST.model_dump_json().encode(), MODEL_FILE: b"pickle"}
    content = bytearray(archive(members, method).getvalue())
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] = value
    del content[data.draw(st.just(len(content)) | st.integers(0, len(content))) :]
    try:
        manifest = read_manifest(io.BytesIO(content))
    except InvalidInput:
        return
    assert manifest == MANIFEST


def test_an_encrypted_or_corrupt_manifest_is_refused():
    content = bytearray(artifact().getvalue())
    first, central = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
    encrypted = bytearray(content)
    encrypted[first + 6] |= 1
    encrypted[central + 8] |= 1
    assert "is encrypted" in refusal(io.BytesIO(encrypted))
    corrupt = bytearray(content)
    corrupt[first + 30 + len(MANIFEST_FILE)] ^= 0xFF
    assert "not an artifact of Skysail" in refusal(io.BytesIO(corrupt))


def test_canonical_json_is_the_same_for_the_same_value():
    assert to_json({"b": [1, 2], "a": "é"}) == '{"a":"\\u00e9","b":[1,2]}'
    assert to_json({"a": 1, "b": 2}) == to_json({"b": 2, "a": 1})


def test_a_sha_256_is_64_lower_case_hexadecimal_digits():
    assert is_sha256("0123456789abcdef" * 4)
    for text in ("", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "../" + "a" * 61, "٣" * 64):
        assert not is_sha256(text)


def test_the_sha_256_of_a_file_is_that_of_its_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert file_sha256(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    path.write_bytes(b"a" * (2 * 1024 * 1024 + 1))
    assert is_sha256(file_sha256(path))


def test_examples_are_numbered():
    assert example_file(2, 1) == "example/2/1.bin"

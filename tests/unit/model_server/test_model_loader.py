import importlib.metadata
import logging
import platform
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from skysail_common.artifact_files import unpack_archive
from skysail_common.artifacts import (
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    SignatureRecord,
    example_file,
)
from skysail_common.errors import InvalidInput
from skysail_common.loaders.python import PythonLoader
from skysail_common.model_functions import LIST_OUTPUT
from skysail_common.replica_description import PackageDifference
from skysail_common.tensors import (
    CLIPPER_SPECS,
    Content,
    DataType,
    InputType,
    Signature,
    TensorSpec,
    from_numpy,
)
from skysail_model_server import model_loader
from skysail_model_server.model import Model
from skysail_model_server.model_loader import LoadFailed, load_model

NUMPY = importlib.metadata.version("numpy")
X = TensorSpec("x", DataType.FP64, (-1, 2))
OUT = TensorSpec("output", DataType.FP64, (-1, 2))
EXAMPLE = np.array([[1.0, 2.0], [3.0, 4.0]])

calls: list[Any] = []


def remembers(x):
    calls.append(x)
    return x * 2


def fails(x):
    raise ZeroDivisionError("on purpose")


def exits(x):
    sys.exit("no licence")


def writes_to_its_input(x):
    x *= 2
    return x


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch):
    """Undo the effects of loading on the process."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    calls.clear()
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


def write_artifact(
    path: Path,
    function: object = remembers,
    *,
    pickled: bytes | None = None,
    signature: Signature | None = None,
    examples: tuple[np.ndarray, ...] = (EXAMPLE,),
    files: dict[str, str] | None = None,
    compression: int = zipfile.ZIP_STORED,
    omit: str = "",
    **values: Any,
) -> Path:
    signature = signature or Signature((X,), (OUT,))
    manifest = Manifest(
        **{
            "skysail_version": "0",
            "python_version": platform.python_version(),
            "signature": SignatureRecord.of(signature),
            "examples": (tuple(each.shape for each in examples),) if examples else (),
            **values,
        }
    )
    members = {
        MANIFEST_FILE: manifest.model_dump_json(),
        MODEL_FILE: cloudpickle.dumps(function) if pickled is None else pickled,
        **{f"modules/{name}": source for name, source in (files or {}).items()},
        **{
            example_file(0, index): from_numpy("", each).data for index, each in enumerate(examples)
        },
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            if name != omit:
                archive.writestr(name, content)
    return path


def load(tmp_path: Path, *args: Any, **values: Any) -> Model:
    archive = write_artifact(tmp_path / "a.zip", *args, **values)
    return load_model(unpack_archive(archive, tmp_path / "work"))


def test_a_loaded_model_has_answered_its_warm_up_query(tmp_path: Path, work_dir: Path):
    model = load(tmp_path)
    assert calls[0].tolist() == EXAMPLE.tolist()
    assert [rows for rows, _ in model.latencies] == [1, 2, 8, 64]
    assert model.signature == Signature((X,), (OUT,))
    assert model.predict([np.ones((1, 2))], 1)[0].tolist() == [[2.0, 2.0]]


def test_a_model_is_not_called_before_its_queries_without_warm_up(tmp_path: Path, work_dir: Path):
    archive = write_artifact(tmp_path / "a.zip")
    model = load_model(unpack_archive(archive, work_dir), limits=None)
    assert calls == []
    assert model.latencies == []
    # The check for a lack of memory must not call the model either.
    assert not model.example


def test_the_function_may_write_to_the_warm_up_query(tmp_path: Path, work_dir: Path):
    load(tmp_path, writes_to_its_input)


def test_every_input_is_warmed_up_in_the_order_of_the_signature(tmp_path: Path, work_dir: Path):
    def joins(b, a):
        assert a.dtype == object
        return [text * int(number) for text, number in zip(a, b[:, 0], strict=True)]

    text = np.array(["ab", "c"], dtype=object)
    signature = Signature(
        (
            TensorSpec("a", DataType.BYTES, (-1,), Content.TEXT),
            TensorSpec("b", X.datatype, X.shape),
        ),
        (TensorSpec("output", DataType.BYTES, (-1,), Content.TEXT),),
    )
    load(tmp_path, joins, signature=signature, calling="keywords", examples=(text, EXAMPLE))


def test_without_an_example_there_is_no_warm_up(tmp_path: Path, work_dir: Path):
    signature = Signature((CLIPPER_SPECS[InputType.DOUBLES],), (LIST_OUTPUT,))
    load(tmp_path, fails, signature=signature, calling="list", examples=())


def test_the_error_names_another_minor_version_of_python(tmp_path: Path, work_dir: Path):
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, python_version="3.7.16")
    assert caught.value.message == (
        f"cannot load the function: it was pickled by Python 3.7.16 and this is Python "
        f"{platform.python_version()}; pickled code runs only on the same minor version"
    )
    assert calls == []


def test_another_micro_version_of_python_is_accepted(tmp_path: Path, work_dir: Path):
    major, minor, _ = platform.python_version_tuple()
    load(tmp_path, python_version=f"{major}.{minor}.999")


MISSING = {"zebra-not-there": "2.0", "numpy": NUMPY, "apple-not-there": "1.5rc1"}


def imports_what_is_missing(x):
    import apple_not_there

    return apple_not_there.bite(x)


def hides_a_failed_import(x):
    try:
        import apple_not_there
    except ImportError:
        raise RuntimeError("no apple") from None
    return apple_not_there


def test_missing_packages_that_the_function_does_not_need_are_ignored(
    tmp_path: Path, work_dir: Path
):
    load(tmp_path, packages=MISSING)


def test_a_missing_package_of_another_name_than_its_module_is_named(tmp_path: Path, work_dir: Path):
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, imports_what_is_missing, packages={"fruit-not-there-cpu": "1.0"})
    assert caught.value.cause.endswith(
        "; not installed here: fruit-not-there-cpu==1.0; add it to pkgs_to_install (--pkg)"
    )


@pytest.mark.parametrize("function", [imports_what_is_missing, hides_a_failed_import])
def test_missing_packages_are_named_if_an_import_fails(tmp_path: Path, work_dir: Path, function):
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, function, packages=MISSING)
    # The other package belongs to an import that the function does not run.
    assert caught.value.cause.endswith(
        "; not installed here: apple-not-there==1.5rc1; add it to pkgs_to_install (--pkg)"
    )
    assert caught.value.details.splitlines()[0] == (
        "also not installed here: zebra-not-there==2.0 (maybe not needed)"
    )


def test_the_missing_package_is_found_by_the_module_that_failed(tmp_path: Path, work_dir: Path):
    with pytest.raises(LoadFailed) as caught:
        load(
            tmp_path,
            imports_what_is_missing,
            packages={"fruit": "1.0", "zebra": "2.0"},
            modules={"apple_not_there": ("fruit",), "zebra": ("zebra",)},
        )
    assert "; not installed here: fruit==1.0; add it to" in caught.value.cause


def refuses_to_be_imported(x):
    raise ImportError("this needs a zebra")


def test_all_missing_packages_are_named_if_an_installed_one_refuses(tmp_path: Path, work_dir: Path):
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, refuses_to_be_imported, packages=MISSING)
    assert caught.value.cause.endswith(
        "; not installed here: apple-not-there==1.5rc1, zebra-not-there==2.0; add them to "
        "pkgs_to_install (--pkg)"
    )


def test_missing_packages_are_not_named_for_other_errors(tmp_path: Path, work_dir: Path):
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, fails, packages=MISSING)
    assert "zebra" not in caught.value.message


def test_a_package_is_not_missing_if_another_has_its_module(tmp_path: Path, work_dir: Path):
    with pytest.raises(LoadFailed) as caught:
        load(
            tmp_path,
            imports_what_is_missing,
            packages={"numpy-headless": "1.0", "zebra-not-there": "2.0"},
            modules={"numpy": ("numpy-headless",), "zebra": ("zebra-not-there",)},
        )
    assert "the module 'apple_not_there' is not here: name it in code=" in caught.value.cause
    assert "also not installed here: zebra-not-there==2.0 (" in caught.value.details


def test_other_versions_of_packages_cause_a_warning(tmp_path: Path, work_dir: Path, caplog):
    pydantic = importlib.metadata.version("pydantic")
    with caplog.at_level(logging.WARNING):
        load(tmp_path, packages={"numpy": "0.1", "pydantic": pydantic})
    (record,) = caplog.records
    assert record.__dict__["difference"] == f"numpy is {NUMPY} here and was 0.1 there"


@pytest.mark.parametrize("broken", ["loading", "warm-up"])
def test_other_versions_of_packages_are_named_in_errors(tmp_path: Path, work_dir: Path, broken):
    pickled = b"rubbish" if broken == "loading" else None
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, fails, pickled=pickled, packages={"numpy": "0.1"})
    assert caught.value.cause.endswith(
        f"; versions differ, which may be the cause: numpy is {NUMPY} here and was 0.1 there"
    )


class Unloadable:
    def __reduce__(self):
        return _unpickled, ()


def _unpickled():
    raise RuntimeError("the weights are gone")


class Exits:
    def __reduce__(self):
        return sys.exit, (0,)


@pytest.mark.parametrize(
    ("pickled", "what"),
    [
        (b"", "EOFError: Ran out of input"),
        (b"rubbish", "UnpicklingError: "),
        (b"cno_such_module\nf\n.", "ModuleNotFoundError: No module named 'no_such_module'"),
        (cloudpickle.dumps(Unloadable()), "RuntimeError: the weights are gone"),
        (cloudpickle.dumps(Exits()), "SystemExit: 0"),
    ],
)
def test_the_error_about_a_failed_unpickling_has_the_cause(
    tmp_path: Path, work_dir: Path, pickled, what
):
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, pickled=pickled)
    first, *trace = caught.value.message.splitlines()
    assert first.startswith(f"loading the model failed: {what}")
    assert trace[0] == "Traceback (most recent call last):"
    assert not any(what in line for line in trace)


@pytest.mark.parametrize(
    ("function", "what"),
    [(fails, "ZeroDivisionError: on purpose"), (exits, "SystemExit: no licence")],
)
def test_a_failed_warm_up_comes_with_its_traceback(tmp_path: Path, work_dir: Path, function, what):
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, function)
    first, *trace = caught.value.message.splitlines()
    what = f"the function failed on the warm-up query: {what}"
    assert first.startswith(f"{what} (in {function.__name__}, ")
    assert trace[0] == "Traceback (most recent call last):"
    # The traceback begins in the user's code, and the first line has told the cause.
    assert trace[1].endswith(f"in {function.__name__}")
    assert "skysail_model_server" not in caught.value.message
    # Python 3.13 marks the place in the line too.
    assert len([line for line in trace if line.strip(" ~^")]) == 3


def fails_after_another(x):
    try:
        fails(x)
    except ZeroDivisionError as error:
        raise ValueError("two lines\nof text") from error


def test_the_errors_that_led_to_an_error_are_shown(tmp_path: Path, work_dir: Path):
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, fails_after_another)
    lines = caught.value.message.splitlines()
    assert "ValueError: two lines (in fails_after_another, " in lines[0]
    assert lines[1] == "of text"
    assert "ZeroDivisionError: on purpose" in lines
    assert lines.count("of text") == 1
    assert "skysail_model_server" not in caught.value.message


def test_a_warm_up_that_breaks_the_signature_fails(tmp_path: Path, work_dir: Path):
    def loses_a_row(x):
        return x[1:]

    with pytest.raises(LoadFailed, match="returned 1 rows in output 'output' for 2 rows") as caught:
        load(tmp_path, loses_a_row)
    assert caught.value.details == ""


def test_modules_can_be_imported_at_load_and_later(tmp_path: Path, work_dir: Path):
    files = {
        "sky_user_tools.py": "FACTOR = 3.0\n",
        "sky_user_package/__init__.py": "",
        "sky_user_package/deep.py": "from sky_user_tools import FACTOR\nOFFSET = FACTOR + 1\n",
    }

    def function(x):
        from sky_user_package.deep import OFFSET

        return x + OFFSET

    model = load(tmp_path, function, files=files, examples=())
    assert model.predict([np.zeros((1, 2))], 1)[0].tolist() == [[4.0, 4.0]]
    assert Path(sys.modules["sky_user_tools"].__file__ or "").is_relative_to(work_dir)


def test_the_error_about_a_missing_file_beside_a_module_has_the_fix(tmp_path: Path, work_dir: Path):
    files = {
        "sky_user_reads.py": (
            "from pathlib import Path\n"
            "def f(x): return x * float((Path(__file__).parent / 'conf.txt').read_text())\n"
        )
    }
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, pickled=b"csky_user_reads\nf\n.", files=files)
    # The place is the user's line, not the one of pathlib.
    assert "(in f, sky_user_reads.py line 2); conf.txt did not travel" in caught.value.cause
    assert "put it beside the module in a local package" in caught.value.cause
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, lambda x: Path("/nowhere/at/all").read_text())
    assert "(in <lambda>, " in caught.value.cause
    assert "; /nowhere/at/all is not in the replica: put it beside" in caught.value.cause
    assert "by files= (--file all=PATH) to a class whose load(context)" in caught.value.cause


def test_modules_of_the_user_take_precedence_over_installed_ones(tmp_path: Path, work_dir: Path):
    load(
        tmp_path,
        pickled=b"csky_user_first\nf\n.",
        files={"sky_user_first.py": "f = abs\n"},
        examples=(),
    )
    assert sys.path[0] == str((work_dir / "modules").resolve())


def test_a_corrupt_model_is_refused(tmp_path: Path, work_dir: Path):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = write_artifact(
            tmp_path / "a.zip", pickled=bytes(range(256)) * 8, compression=compression
        )
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(MODEL_FILE)
        content = bytearray(path.read_bytes())
        begin = info.header_offset + 30 + len(MODEL_FILE)
        content[begin : begin + 8] = b"\xff" * 8
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match="cannot load the artifact: it is corrupt"):
            unpack_archive(path, work_dir)


def test_a_missing_example_is_refused(tmp_path: Path, work_dir: Path):
    with pytest.raises(InvalidInput, match="cannot load the artifact: it is corrupt"):
        load(tmp_path, omit=example_file(0, 0))


def test_a_file_that_is_not_an_artifact_is_refused(tmp_path: Path, work_dir: Path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(InvalidInput, match="not an artifact"):
        unpack_archive(path, work_dir)


class StatesItself(PythonLoader):
    """A loader of a format that states its outputs."""

    def signature(self) -> Signature:
        return Signature((replace(X, name="other"),), (replace(OUT, name="stated"),))


def test_a_model_learns_its_outputs_from_the_answer_to_its_example(tmp_path: Path, work_dir: Path):
    model = load(tmp_path, remembers, signature=Signature((X,), ()))
    assert model.signature == Signature((X,), (OUT,))
    assert model.description.learned_signature == model.signature
    assert model.predict([EXAMPLE], 2)[0].tolist() == (EXAMPLE * 2).tolist()


def test_a_model_whose_signature_is_stated_learns_none(tmp_path: Path, work_dir: Path):
    description = load(tmp_path, packages={"numpy": "1.0"}).description
    assert description.learned_signature is None
    assert description.package_differences == (PackageDifference("numpy", "1.0", NUMPY),)


def test_a_format_may_state_what_it_answers(tmp_path: Path, work_dir: Path, monkeypatch):
    monkeypatch.setattr(model_loader, "make_loader", lambda name, options: StatesItself(options))
    model = load(tmp_path, lambda x: {"stated": x}, signature=Signature((X,), ()))
    assert [spec.name for spec in model.signature.outputs] == ["stated"]
    assert model.signature.inputs == (X,)
    other = load(tmp_path, signature=Signature((), ()), examples=())
    assert [spec.name for spec in other.signature.inputs] == ["other"]


@pytest.mark.parametrize(
    ("function", "examples", "text"),
    [
        (remembers, (), "cannot learn the signature: the model does not state its inputs"),
        (fails, (EXAMPLE,), "learning the signature failed: ZeroDivisionError: on purpose"),
        (lambda x: 3.0, (EXAMPLE,), "it must return one for each row"),
        (lambda x: {}, (EXAMPLE,), "the function returned an empty dict or tuple"),
        (lambda x: x[:1], (EXAMPLE,), "1 rows in output 'output' for 2 rows"),
    ],
)
def test_a_signature_that_cannot_be_learned_is_a_failed_load(
    tmp_path: Path, work_dir: Path, function, examples, text
):
    with pytest.raises(LoadFailed) as raised:
        load(tmp_path, function, signature=Signature((X,), ()), examples=examples)
    assert text in raised.value.message

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skysail.artifact.build import Artifact, build_artifact
from skysail.artifact.local_modules import own_frames
from skysail_common.errors import InvalidInput
from skysail_common.model_functions import call_function
from skysail_model_server.model_loader import load_model
from skysail_testing.artifacts import lay_out, members_of

# Definitions of this module are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None

X = np.arange(6.0).reshape(2, 3)


def modules_of(artifact: Artifact) -> dict[str, str]:
    return {
        name.removeprefix("modules/"): content.decode()
        for name, content in members_of(artifact).items()
        if name.startswith("modules/")
    }


def modules_for(function: Any) -> list[str]:
    return sorted(modules_of(build_artifact(function, example=X)))


def load(name: str) -> Any:
    return importlib.import_module(name)


def test_a_function_of_the_notebook_brings_no_modules():
    assert modules_for(lambda x: np.tanh(x)) == []


def test_the_module_of_a_function_comes_along_as_it_is(write):
    source = "def predict(x):\n    return x * len('é')\n"
    write("mine_a.py", source)
    artifact = build_artifact(load("mine_a").predict, example=X)
    assert modules_of(artifact) == {"mine_a.py": source}


def test_the_whole_package_of_a_function_comes_along(write):
    write("mine_b/__init__.py")
    write(
        "mine_b/model.py",
        "from mine_b.parts.scale import FACTOR\ndef predict(x): return x * FACTOR",
    )
    write("mine_b/parts/__init__.py")
    write("mine_b/parts/scale.py", "FACTOR = 2")
    write("mine_b/unused.py", "raise ImportError('of something optional')")
    write("mine_b/notes.txt", "data")
    write("other.py")
    assert modules_for(load("mine_b.model").predict) == [
        "mine_b/__init__.py",
        "mine_b/model.py",
        "mine_b/notes.txt",
        "mine_b/parts/__init__.py",
        "mine_b/parts/scale.py",
        "mine_b/unused.py",
    ]


def test_a_package_without_init_comes_along(write):
    write("mine_c/deep/model.py", "def predict(x): return x")
    assert modules_for(load("mine_c.deep.model").predict) == ["mine_c/deep/model.py"]


def test_modules_that_modules_import_come_along(write):
    write("mine_d.py", "import mine_d_one, mine_d_two as two\ndef predict(x): return two.same(x)")
    write("mine_d_one.py", "import os, sys")
    write("mine_d_two.py", "if True:\n    from mine_d_three.deep import same")
    write("mine_d_three/deep.py", "def same(x): return x")
    write("mine_d_alone.py")
    assert modules_for(load("mine_d").predict) == [
        "mine_d.py",
        "mine_d_one.py",
        "mine_d_three/deep.py",
        "mine_d_two.py",
    ]


def test_modules_that_import_each_other_come_along_once(write):
    write("mine_e.py", "import mine_e_other\ndef predict(x): return x")
    write("mine_e_other.py", "import mine_e")
    assert modules_for(load("mine_e").predict) == ["mine_e.py", "mine_e_other.py"]


def test_a_module_that_a_notebook_uses_comes_along(write):
    write("mine_f.py", "def double(x): return x * 2")
    mine_f = load("mine_f")
    double = mine_f.double
    assert modules_for(lambda x: mine_f.double(x)) == ["mine_f.py"]
    assert modules_for(lambda x: double(x)) == ["mine_f.py"]


def test_the_module_of_an_object_s_class_comes_along(write):
    write("mine_g.py", "class Model:\n    def predict(self, x): return x")
    assert modules_for(load("mine_g").Model().predict) == ["mine_g.py"]


def test_a_module_that_only_the_body_imports_comes_along(write):
    write("mine_h.py", "def double(x): return x * 2")

    def predict(x):
        import mine_h

        return mine_h.double(x)

    assert modules_for(predict) == ["mine_h.py"]


def test_a_module_that_only_the_body_imports_comes_along_although_it_did_not_run(write):
    write("mine_i/__init__.py", "from mine_i import text")
    write("mine_i/text.py", "import mine_i_transitive")
    write("mine_i_transitive.py", "def upper(x): return x.upper()")

    def predict(inputs):
        from mine_i.text import mine_i_transitive

        return [mine_i_transitive.upper(each) for each in inputs]

    artifact = build_artifact(predict, input_type="strings", check=False)
    assert sorted(modules_of(artifact)) == [
        "mine_i/__init__.py",
        "mine_i/text.py",
        "mine_i_transitive.py",
    ]
    assert "mine_i" not in sys.modules


def test_a_module_of_a_branch_that_the_example_does_not_take_comes_along(write):
    write("mine_j.py", "def rare(x): return x")

    def predict(x):
        if len(x) > 1000:
            from mine_j import rare

            return rare(x)
        return x

    assert modules_for(predict) == ["mine_j.py"]


def test_an_import_of_what_is_nowhere_is_the_function_s_own_matter():
    def predict(x):
        try:
            import mine_nowhere
        except ImportError:
            return x
        return mine_nowhere.better(x)

    assert modules_for(predict) == []


def test_installed_packages_and_the_standard_library_do_not_come_along(write):
    write(
        "mine_k.py",
        """
        import json
        import httpx
        import numpy as np
        from click.testing import CliRunner
        from xml.dom import minidom

        def predict(x):
            return np.tanh(x)
        """,
    )
    assert modules_for(load("mine_k").predict) == ["mine_k.py"]


def test_packages_that_the_modules_import_are_recorded(write):
    write("mine_l.py", "import click\ndef predict(x): return x")
    artifact = build_artifact(load("mine_l").predict, example=X)
    assert "click" in artifact.manifest.packages


def test_skysail_itself_does_not_travel(write):
    write(
        "mine_m.py",
        "import skysail, skysail_common.errors, skysail_protos\ndef predict(x): return x",
    )
    assert modules_for(load("mine_m").predict) == ["mine_m.py"]


def test_a_name_in_a_text_is_no_import(write):
    write("mine_n.py", '"""Doc.\n\nmine_n_other is not imported.\n"""\ndef predict(x): return x')
    write("mine_n_other.py")
    assert modules_for(load("mine_n").predict) == ["mine_n.py"]


def test_relative_imports_stay_in_the_package(write):
    write("mine_o/__init__.py")
    write(
        "mine_o/model.py",
        """
        from . import scale
        from .scale import FACTOR

        def make():
            def predict(x):
                from . import scale
                from .scale import FACTOR
                return x * FACTOR
            return predict
        """,
    )
    write("mine_o/scale.py", "FACTOR = 2")
    write("scale.py", "FACTOR = 3")
    found = modules_for(load("mine_o.model").make())
    # The relative import also has the name `scale`, so that both modules may travel.
    assert set(found) - {"scale.py"} == {"mine_o/__init__.py", "mine_o/model.py", "mine_o/scale.py"}


def test_too_much_source_is_refused(write, monkeypatch):
    write("mine_p.py", "def predict(x): return x\n" + "#" * 100)
    monkeypatch.setattr("skysail.artifact.package_files.MAX_BYTES", 100)
    with pytest.raises(InvalidInput, match="cannot send the local package 'mine_p"):
        build_artifact(load("mine_p").predict, example=X)


def test_a_changed_module_gives_another_sha_256(write):
    write("mine_q.py", "import mine_q_part\ndef predict(x): return x")
    part = write("mine_q_part.py", "FACTOR = 2")
    function = load("mine_q").predict
    before = build_artifact(function, example=X).sha256
    assert build_artifact(function, example=X).sha256 == before
    part.write_text("FACTOR = 3")
    assert build_artifact(function, example=X).sha256 != before


def test_a_replica_that_has_none_of_the_modules_answers_as_the_user_did(
    write, user_dir: Path, tmp_path: Path, monkeypatch
):
    write("mine_r/__init__.py")
    write("mine_r/model.py", "from mine_r_scale import scaled\ndef predict(x): return scaled(x)")
    write(
        "mine_r_scale.py",
        "def scaled(x):\n    import mine_r_late\n    return x * mine_r_late.FACTOR",
    )
    write("mine_r_late.py", "FACTOR = 2")
    function = load("mine_r.model").predict
    files = lay_out(build_artifact(function, example=X), tmp_path / "work")
    for name in [name for name in sys.modules if name.startswith("mine_r")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(user_dir)])
    model = load_model(files)
    try:
        assert model.predict([X], 2)[0].tolist() == (X * 2).tolist()
        assert str(tmp_path / "work") in sys.modules["mine_r_late"].__file__
    finally:
        for name in [name for name in sys.modules if name.startswith("mine_r")]:
            del sys.modules[name]


def test_only_frames_of_the_users_own_modules_are_shown(write):
    write(
        "mymodel.py",
        """
        import json

        def predict(x):
            return parse("{")

        def parse(text):
            return json.loads(text)
        """,
    )
    mymodel = importlib.import_module("mymodel")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - whatever json raises.
        call_function(mymodel.predict, "array", {"x": 1})
    # This test module counts as a module of the user.
    _, *lines = own_frames(caught.value).split("  File ")[1:]
    assert [line.split(", ", 1)[1] for line in lines] == [
        'line 5, in predict\n    return parse("{")\n',
        "line 8, in parse\n    return json.loads(text)\n",
    ]

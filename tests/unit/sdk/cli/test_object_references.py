import sys

import pytest

from skysail.cli.object_references import load_object, load_source
from skysail_common.errors import InvalidInput


def refusal(text: str, what: str = "function") -> str:
    with pytest.raises(InvalidInput) as caught:
        load_object(text, what)
    return caught.value.message


def test_a_name_in_a_module_is_loaded(write):
    write("loaded_a.py", "def predict(x): return x\nclass Model:\n    weights = [1]")
    assert load_object("loaded_a:predict", "function")(3) == 3
    assert load_object("loaded_a:Model.weights", "example") == [1]


@pytest.mark.parametrize("text", ["models:/fraud@champion", "models:/fraud/2", "runs:/12ab/model"])
def test_a_uri_is_a_source(text):
    assert load_source(text) == text


def test_a_path_or_an_object_is_a_source(write, tmp_path):
    write("loaded_s.py", "VALUE = 1")
    assert load_source("loaded_s:VALUE") == 1
    assert load_source(str(tmp_path)) == tmp_path


def test_a_name_in_a_module_of_a_package_is_loaded(write):
    write("loaded_b/__init__.py")
    write("loaded_b/model.py", "VALUE = 1")
    assert load_object("loaded_b.model:VALUE", "example") == 1


def test_modules_of_the_current_directory_are_found_first(write, tmp_path, monkeypatch):
    write("loaded_c.py", "VALUE = 'elsewhere'")
    here = tmp_path / "here"
    here.mkdir()
    (here / "loaded_c.py").write_text("VALUE = 'here'")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert load_object("loaded_c:VALUE", "example") == "here"
    assert load_object("loaded_c:VALUE", "example") == "here"
    assert sys.path.count("") == 1
    monkeypatch.delitem(sys.modules, "loaded_c")


@pytest.mark.parametrize(
    ("text", "module"), [("mymodel.py:triple", "mymodel"), ("./models/my.py:triple", "models.my")]
)
def test_the_error_about_a_file_name_names_the_module(text: str, module: str):
    assert refusal(text).endswith(f"write {module}:triple for that file")


@pytest.mark.parametrize("text", ["", ":", "module", "module:", ":name", "module.name"])
def test_a_text_of_another_form_is_refused(text):
    assert refusal(text, "example") == f"example {text!r} must have the form module:name"


def test_a_missing_module_is_named(user_dir):
    assert refusal("loaded_nowhere:predict") == (
        "module 'loaded_nowhere' cannot be imported: ModuleNotFoundError: No module named "
        "'loaded_nowhere'"
    )


@pytest.mark.parametrize("name", ["other", "predict.other", "__nothing__"])
def test_a_name_that_the_module_lacks_is_named(write, name):
    write("loaded_d.py", "def predict(x): return x")
    assert refusal(f"loaded_d:{name}") == f"module 'loaded_d' has no {name!r}"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: invalid syntax"),
        ("import json\njson.nothing", "AttributeError: module 'json' has no attribute 'nothing'"),
        ("import nothing_at_all", "ModuleNotFoundError: No module named 'nothing_at_all'"),
    ],
)
def test_a_failed_import_is_reported_with_its_error(write, source, error):
    write("loaded_e.py", source)
    assert refusal("loaded_e:predict").startswith(f"module 'loaded_e' cannot be imported: {error}")


@pytest.mark.parametrize("text", ["..:x", ".relative:x", "a b:c", "\0:x"])
def test_a_name_that_no_module_can_have_is_refused(text):
    assert "cannot be imported" in refusal(text)

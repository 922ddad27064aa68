import pytest

from skysail.artifact.requirements import distribution_name, merge_requirements

DEFAULTS = ("xgboost==2.1.4", "scikit-learn==1.5.0")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Scikit_Learn>=1.4", "scikit-learn"),
        ("xgboost==2.1.4 --hash=sha256:00", "xgboost"),
        ("xgboost==2.1.4 \\", "xgboost"),
        ("xgboost[plot] ; python_version > '3'", "xgboost"),
        ("own @ https://host/own.whl", "own"),
        ("./dist/own_package-1.0-py3-none-any.whl", "own-package"),
        ("https://host/own_package-1.0-py3-none-any.whl#sha256=0", "own-package"),
        ("git+https://host/repository#egg=own_package", "own-package"),
        ("--extra-index-url https://host", ""),
        ("-r more.txt", ""),
    ],
)
def test_the_distribution_of_a_requirement(line: str, name: str):
    assert distribution_name(line) == name


def test_requirements_of_the_user_replace_defaults_of_the_same_distribution():
    assert merge_requirements(["Xgboost>=2"], DEFAULTS) == ("Xgboost>=2", "scikit-learn==1.5.0")
    assert merge_requirements([], DEFAULTS) == DEFAULTS
    assert merge_requirements(["six"], ()) == ("six",)


def test_a_list_with_hashes_gets_no_defaults():
    given = ["six==1.0 --hash=sha256:00"]
    assert merge_requirements(given, DEFAULTS) == tuple(given)

"""Unit tests and imports on every supported interpreter that this machine has."""

import pytest

from skysail_testing.interpreters import OWN, VERSIONS, OtherInterpreters, find_interpreter


@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", VERSIONS)
def test_unit_tests_and_imports(version: str, other_interpreters: OtherInterpreters):
    if version == OWN:
        pytest.skip("the interpreter that runs the whole suite")
    if find_interpreter(version) is None:
        pytest.skip(f"python{version} is not installed")
    problem = other_interpreters.result(version)
    assert not problem, problem

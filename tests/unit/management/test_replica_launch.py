import pytest

from skysail_common.identifiers import ModelVersion
from skysail_management.containers.base import PrepareFailed, VersionSpec
from skysail_management.containers.replica_launch import can_run, check_python


def version(python: str) -> VersionSpec:
    return VersionSpec(ModelVersion("m", "1"), "0" * 64, python)


@pytest.mark.parametrize("python", ["3.11.7", "3.11.2", ""])
def test_the_minor_version_decides(python: str):
    assert can_run("3.11.2", version(python))
    check_python(version(python), "3.11.2")


def test_another_minor_version_is_named():
    assert not can_run("3.12.1", version("3.11.7"))
    with pytest.raises(
        PrepareFailed, match=r"made with Python 3\.11\.7, and replicas here run Python 3\.12"
    ):
        check_python(version("3.11.7"), "3.12.1")

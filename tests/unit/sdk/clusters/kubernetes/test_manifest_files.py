"""`skysail kubernetes manifests`: the kustomize folder that ships with Skysail."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from skysail.cli.main import cli
from skysail.clusters.kubernetes.manifest_files import manifests_directory
from skysail_common import __version__
from skysail_common.errors import FailedPrecondition

SHIPPED = manifests_directory()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["kubernetes", "manifests", *map(str, arguments)])


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_without_a_directory_it_prints_where_the_manifests_are():
    result = run()
    assert result.output == f"{SHIPPED}\n"
    assert (Path(result.output.strip()) / "base" / "kustomization.yaml").is_file()


@pytest.mark.parametrize("exists", [False, True])
def test_the_copy_is_what_ships(tmp_path: Path, exists: bool):
    target = tmp_path / "above" / "k8s"
    if exists:
        target.mkdir(parents=True)
    result = run(target)
    assert result.exit_code == 0
    assert contents(target) == contents(SHIPPED)
    number = len(contents(SHIPPED))
    assert result.output.startswith(
        f"{target}: manifests of Skysail {__version__}, {number} written\n"
    )


def test_the_output_says_what_to_do_next(tmp_path: Path):
    target = tmp_path / "with a blank"
    lines = run(target).output.splitlines()
    assert (
        f"  skysail up --container-manager kubernetes --overlay '{target}/overlays/local'" in lines
    )
    assert f"  cp -r '{target}/examples/eks' '{target}/examples/mine'" in lines
    for named in ("overlays/local", "examples/eks"):
        assert (target / named / "kustomization.yaml").is_file()


def test_a_directory_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("mine")
    error = run(tmp_path).exception
    assert isinstance(error, FailedPrecondition)
    assert error.message == (
        f"cannot copy the manifests to {tmp_path}: the directory is not empty; name another, "
        "or pass --force to replace files of the same name"
    )
    assert contents(tmp_path) == {"mine.yaml": b"mine"}


def test_force_renews_a_copy_and_keeps_an_overlay_of_the_users(tmp_path: Path):
    run(tmp_path)
    (tmp_path / "base" / "kustomization.yaml").write_text("old")
    mine = tmp_path / "examples" / "mine" / "kustomization.yaml"
    mine.parent.mkdir()
    mine.write_text("mine")
    result = run(tmp_path, "--force")
    assert result.exit_code == 0
    number = len(contents(SHIPPED))
    assert f", 1 written, {number - 1} unchanged\n" in result.output
    assert contents(tmp_path) == contents(SHIPPED) | {"examples/mine/kustomization.yaml": b"mine"}


def test_a_file_in_the_way_of_a_directory_is_named(tmp_path: Path):
    (tmp_path / "base").write_text("a file")
    error = run(tmp_path, "--force").exception
    assert isinstance(error, FailedPrecondition)
    assert str(tmp_path / "base") in error.message

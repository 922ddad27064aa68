import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-12-24\n\n### Added\n\n* A door.\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "add", ".")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    git(tmp_path, *author, "commit", "--quiet", "--no-gpg-sign", "--message", "all")
    return tmp_path


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=directory, check=True)


def check(tree: Path, version: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "release-check", version],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if done.stderr else 0)
    return done.stderr


def test_a_clean_tree_with_a_described_version_is_released(tree: Path):
    assert check(tree, "1.2.3") == ""


def test_a_tree_with_changes_is_refused(tree: Path):
    (tree / "new.py").write_text("")
    assert check(tree, "1.2.3").startswith("cannot release 1.2.3: the tree has changes;")


@pytest.mark.parametrize("version", ["1.2.4", "1.2", "1x2.3"])
def test_a_version_that_the_changelog_lacks_is_refused(tree: Path, version: str):
    assert f"has no section '## [{version}] - YYYY-MM-DD'" in check(tree, version)


def test_an_empty_section_is_refused(tree: Path):
    (tree / "CHANGELOG.md").write_text(
        "## [1.2.3] - 2026-12-24\n\n## [1.2.2] - 2026-11-24\n\n* A.\n"
    )
    assert "the section 1.2.3 of CHANGELOG.md is empty" in check(tree, "1.2.3")


def test_the_changelog_has_the_sections_of_its_format():
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", name) for name in releases[1:])
    kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^### (.*)$", section, re.MULTILINE)
        assert found == [kind for kind in kinds if kind in found]


def test_each_command_of_the_workflow_is_of_this_repository():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [
        line.strip()
        for job in workflow["jobs"].values()
        for step in job["steps"]
        for line in step.get("run", "").splitlines()
    ]
    called = {name for line in commands for name in re.findall(r"\bmake ([a-z][a-z -]*)", line)}
    assert {"lint type", "test"} <= called
    assert {name for names in called for name in names.split()} <= targets
    assert any(".ci/run" in line for line in commands)

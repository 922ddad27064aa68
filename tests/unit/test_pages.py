"""Pages for contributors name files that exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "services/common": "skysail_common",
    "services/frontend": "skysail_frontend",
    "services/management": "skysail_management",
    "services/model_server": "skysail_model_server",
    "sdk": "skysail",
}
CHECKLISTS = sorted((ROOT / "docs/contributing").glob("*.md"))
GUIDES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *CHECKLISTS]
DECISIONS = sorted((ROOT / "docs/decisions").glob("0*.md"))
MAX_LINES_OF_A_SCREEN = 45
MAX_LINES_OF_A_DECISION = 50


def named_paths(page: Path) -> Iterator[str]:
    """Yield each code span that is a path, such as `docs/` or `pyproject.toml`."""
    for span in re.findall(r"`([\w.-]+(?:/[\w.-]*)*)`", page.read_text()):
        if "/" in span or re.search(r"\w\.(py|md|toml|ya?ml|proto|rs)$", span):
            yield span


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [*GUIDES, *DECISIONS], ids=ids)
def test_paths_in_pages_for_contributors_exist(page: Path):
    # Each service has these: the page means the one of the service that changes.
    every_service = {"settings.py", "app.py", "manager.py"}
    paths = {path for path in named_paths(page) if path not in every_service}
    # Commands make these, so that a fresh clone lacks them.
    paths = {path for path in paths if not path.startswith(".cache/")}
    assert {path for path in paths if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("folder", PACKAGES)
def test_paths_in_the_readme_of_a_package_exist(folder: str):
    page = ROOT / folder / "README.md"
    package = ROOT / folder / PACKAGES[folder]
    missing = [
        path
        for path in named_paths(page)
        if not (package / path).exists() and not (ROOT / path).exists()
    ]
    assert missing == []
    assert len(page.read_text().splitlines()) <= MAX_LINES_OF_A_SCREEN


READMES = [*(ROOT / folder / "README.md" for folder in PACKAGES), ROOT / "examples/README.md"]


@pytest.mark.parametrize("page", READMES, ids=ids)
def test_links_of_a_readme_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("folder", ["contributing", "decisions"])
def test_the_index_lists_every_page(folder: str):
    index = (ROOT / "docs" / folder / "index.md").read_text()
    for page in (ROOT / "docs" / folder).glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index


@pytest.mark.parametrize("page", CHECKLISTS, ids=ids)
def test_a_checklist_has_items_to_tick(page: Path):
    assert "- [ ] " in page.read_text()


@pytest.mark.parametrize("page", DECISIONS, ids=ids)
def test_a_decision_has_its_sections_and_fits_a_page(page: Path):
    text = page.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.splitlines()) <= MAX_LINES_OF_A_DECISION

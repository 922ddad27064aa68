"""The house has the rooms that its map shows; files are short, and class names unique."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_SOURCE_LINES = 400
MAX_TEST_LINES = 600
PACKAGES = {
    "protos/skysail_protos",
    "sdk/skysail",
    "services/common/skysail_common",
    "services/frontend/skysail_frontend",
    "services/management/skysail_management",
    "services/model_server/skysail_model_server",
}
CLASS = re.compile(r"^class (?P<name>\w+)", re.MULTILINE)


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_pb2" not in path.name:
                yield path


def rooms() -> set[str]:
    """Return the folders of Python and Rust sources, relative to the root."""
    python = {path.parent for path in python_files(*PACKAGES)}
    rust = {path.parent for path in (ROOT / "transport/src").rglob("*.rs")}
    return {path.relative_to(ROOT).as_posix() for path in python | rust}


def rooms_of_map(text: str) -> dict[str, list[str]]:
    """Return the folders of the map in a text, each with the files that it names.

    A line is a folder or, below it, a part of its files. A folder ends in a slash and stands in the
    folder of the nearest line above that is indented less.
    """
    block = text.partition("## The tree")[2].partition("```text\n")[2].partition("```")[0]
    found: dict[str, list[str]] = {}
    above: list[tuple[int, str]] = []
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip())
        words = line.partition("  # ")[0].split()
        while above and above[-1][0] >= indent:
            above.pop()
        if words[0].endswith("/"):
            parent = above[-1][1] + "/" if above else ""
            folder = parent + words.pop(0).rstrip("/")
            above.append((indent, folder))
            found[folder] = []
        found[above[-1][1]] += words
    return found


def test_the_map_of_the_house_shows_every_room_and_file():
    on_map = rooms_of_map((ROOT / "docs/architecture.md").read_text())
    assert rooms() - set(on_map) == set(), "rooms that are missing on the map"
    for folder, names in on_map.items():
        assert (ROOT / folder).is_dir(), folder
        if folder in rooms():
            sources = [*(ROOT / folder).glob("*.py"), *(ROOT / folder).glob("*.rs")]
            present = {path.stem for path in sources if "_pb2" not in path.name}
            assert set(names) == present - {"__init__", "mod"}, folder


def test_a_map_is_read_as_it_is_drawn():
    text = """## The tree
```text
a/b/      one two
          three
  c/      four  # says why
    d/
  e/
```
"""
    assert rooms_of_map(text) == {
        "a/b": ["one", "two", "three"],
        "a/b/c": ["four"],
        "a/b/c/d": [],
        "a/b/e": [],
    }


def test_no_file_is_too_long():
    limits = {"sdk": MAX_SOURCE_LINES, "services": MAX_SOURCE_LINES, "tests": MAX_TEST_LINES}
    lengths = {
        path.relative_to(ROOT).as_posix(): (len(path.read_text().splitlines()), limit)
        for folder, limit in limits.items()
        for path in python_files(folder)
    }
    assert {name: length for name, (length, limit) in lengths.items() if length > limit} == {}


def test_a_class_name_of_the_services_means_one_thing():
    places = defaultdict(list)
    for path in python_files("services"):
        for found in CLASS.finditer(path.read_text()):
            places[found["name"].lstrip("_")].append(path.relative_to(ROOT).as_posix())
    assert len(places) > 200
    assert {name: files for name, files in places.items() if len(files) > 1} == {}

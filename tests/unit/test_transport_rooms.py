"""The Rust files of the transport: imports that go only downwards, comments with a subject."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "transport/src"
# Each room may import the rooms before it.
ROOMS = ("grpc", "net", "engine", "python")
# A comment that begins with such a word has no subject.
NO_SUBJECT = re.compile(
    r"(It|Its|Those|One|Who|Whoever|What|Whatever|Of|Not|Only|Also|Behind|By|As|Without|Told|Here|At"
    r"|For|In|On|To|With|Nor|Else|Another|Others|All|None|Nobody|Nothing|Once|Until|Unless|So)\b"
)


def imported_files(path: Path) -> set[str]:
    text = path.read_text()
    assert "use super::{" not in text, "one file an import, for the pattern below"
    room = path.parent.name
    return set(re.findall(rf"\b(?:super|crate::{room})::(\w+)::", text)) - {path.stem}


def imported_rooms(path: Path) -> set[str]:
    return set(re.findall(r"\bcrate::(\w+)::", path.read_text()))


def test_imports_are_found():
    assert {"calls", "limits"} <= imported_files(SOURCES / "engine/core.rs")


@pytest.mark.parametrize("room", ROOMS)
def test_the_files_of_a_room_have_no_circle(room):
    paths = [path for path in (SOURCES / room).glob("*.rs") if path.stem != "mod"]
    names = {path.stem for path in paths}
    imports = {path.stem: imported_files(path) & names for path in paths}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room):
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    for path in (SOURCES / room).glob("*.rs"):
        assert imported_rooms(path) <= allowed, path.name


def test_every_file_is_in_a_room():
    assert {path.name for path in SOURCES.iterdir()} == {*ROOMS, "lib.rs"}


def test_comments_have_a_subject():
    paragraphs = [
        match[2]
        for path in SOURCES.rglob("*.rs")
        for match in re.finditer(r"(?<!\w)(//[/!]?) (\w[^\n]*)", path.read_text())
        if match[2][0].isupper()
    ]
    bad = [text for text in paragraphs if NO_SUBJECT.match(text)]
    assert len(paragraphs) > 500
    assert len(bad) < len(paragraphs) // 50, bad

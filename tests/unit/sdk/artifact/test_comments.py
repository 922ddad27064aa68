import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail.artifact.comments import strip_comments
from skysail_testing.examples import examples

SOURCE = r'''# -*- coding: utf-8 -*-
"""Doc.

# No comment.
"""
import os  # At once.


def f(x):  # é
    # Why.
    y = """

    # text
    """ + \
        x

    return [  # first

        y,
        # last
        "#",
    ]
'''


def test_comments_and_empty_lines_are_removed_and_nothing_else():
    found = strip_comments(SOURCE.encode()).decode()
    lines = [
        '"Doc.',
        "",
        "# No comment.",
        '"',
        "import os",
        "def f(x):",
        '    y = "',
        "",
        "    # text",
        '    " + \\',
        "        x",
        "    return [",
        "        y,",
        '        "#",',
        "    ]",
        "",
    ]
    assert found.replace('"' * 3, '"').split("\n") == lines


@pytest.mark.parametrize("source", [b"def (", b"x = '", b"\xff\xfe", b"if 1:\n  x\n y", b"(\n"])
def test_a_file_that_does_not_parse_is_unchanged(source):
    assert strip_comments(source) == source


def test_another_encoding_becomes_utf_8():
    source = "# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1")
    assert strip_comments(source).decode() == "x = 'é'\n"


FILES = sorted(Path(ast.__file__).parent.glob("[a-e]*.py"))


@settings(max_examples=examples(15))
@given(st.sampled_from(FILES), st.lists(st.integers(0, 3000), max_size=5))
def test_the_code_is_the_same_and_comments_change_nothing(file, places):
    source = file.read_text()
    found = strip_comments(source.encode())
    assert ast.dump(ast.parse(found)) == ast.dump(ast.parse(source))
    statements = ast.parse(source).body
    lines = source.split("\n")
    # Insert from the end, so that earlier line numbers stay.
    for number in sorted({statements[place % len(statements)].lineno for place in places})[::-1]:
        if not lines[number - 2].startswith("@"):
            lines.insert(number - 1, "# A comment.\n")
    assert strip_comments("\n".join(lines).encode()) == found

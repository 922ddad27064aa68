"""Comments name their subject, and summaries of docstrings are plain."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "docs", "examples", "sdk", "services", "tests/skysail_testing")
MAX_COMMENTS_WITHOUT_SUBJECT = 0.10
MAX_UNCLEAR_SUMMARIES = 0.03

COMMENT = re.compile(r"^\s*# (?P<text>[A-Z].*)", re.MULTILINE)
WITHOUT_SUBJECT = re.compile(
    r"(All|Also|Another|As|At|Behind|By|Else|For|Here|In|It|Its|Nobody|None|Nor|Not|Nothing|Of|On"
    r"|Once|One|Only|Others?|So|Those|To|Told|Unless|Until|What|Whatever|Who|Whoever|With|Without)\b"
)
"""Beginnings of comments that leave their subject to the line before or to the code."""

UNCLEAR = re.compile(
    r"\b(is|are|was|were|be) told\b"
    r"|^Have "
    r"|\b(?i:whoever|whatever|who (waits|ends|leads|may))\b"
    r"|\b(?i:what) (is|are|was|were|a|an|the|every|it|comes|has|must|can|may)\b"
    r"|\bwhere (it|there|that|none|one|a|the|its|this|they|nothing|no)\b"
    r"|\bof (its|their|our|one's) own\b"
    r"|\b(anew|any more|no more|meanwhile)\b"
    r"|\bof ours\b"
    r"|\bis (none|no [a-z]+)\b"
    r"|^Tell whether|^Return if"
    r"|(yet|Empty)\.?$"
    r"|\bso (many|much)\b"
)
"""Turns that stand for a plainer word."""


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_pb2" not in path.name and "node_modules" not in path.parts:
                yield path


def comments_of(source: str) -> list[str]:
    return [found["text"] for found in COMMENT.finditer(source)]


def summaries_of(source: str) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
            yield " ".join(docstring.partition("\n\n")[0].split())


def report(found: list[str], number: int) -> str:
    return f"{len(found)} of {number}:\n" + "\n".join(found)


def test_comments_have_a_subject():
    comments = [
        (path.relative_to(ROOT), text)
        for path in sources()
        for text in comments_of(path.read_text())
    ]
    bad = [f"{path}: {text}" for path, text in comments if WITHOUT_SUBJECT.match(text)]
    assert len(comments) > 500
    assert len(bad) < MAX_COMMENTS_WITHOUT_SUBJECT * len(comments), report(bad, len(comments))


def test_summaries_of_docstrings_are_plain():
    summaries = [
        (path.relative_to(ROOT), text)
        for path in sources()
        for text in summaries_of(path.read_text())
    ]
    bad = [f"{path}: {text}" for path, text in summaries if UNCLEAR.search(text)]
    assert len(summaries) > 2000
    assert len(bad) < MAX_UNCLEAR_SUMMARIES * len(summaries), report(bad, len(summaries))


@pytest.mark.parametrize(
    ("comment", "is_plain"),
    [
        ("The store may be away.", True),
        ("Only a leader writes.", False),
        ("Its parent has ended.", False),
        ("Italics are bytes too.", True),
    ],
)
def test_a_comment_without_a_subject_is_seen(comment, is_plain):
    assert comments_of(f"if x:\n    # {comment}\n    pass\n") == [comment]
    assert (WITHOUT_SUBJECT.match(comment) is None) == is_plain


def test_an_unclear_summary_is_seen():
    source = 'def f():\n    """Return what is\n    left.\n\n    More.\n    """\n'
    assert list(summaries_of(source)) == ["Return what is left."]
    assert UNCLEAR.search("Return what is left.")
    assert not UNCLEAR.search("Return the queries that remain.")

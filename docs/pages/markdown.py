"""Pieces of Markdown that the generated pages share."""

import re

GENERATED = "<!-- Generated from {} by `make docs`. -->"
"""The last line of a generated page, for those who edit it: mkdocs reads the title in the first."""


def one_line(text: str) -> str:
    """Return a text on one line, with `<`, `>` and `|` escaped outside of code spans."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(r"[<>*_]", lambda found: "\\" + found[0], parts[index])
    return "".join(parts).replace("|", "\\|")


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as Python-Markdown and GitHub make it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())

"""What mkdocs does beyond its settings: pages from the root, links out of docs/, code, loads.

Three pages of the site are files at the root of the repository. On GitHub a page links to files of
the repository; the site has no such files, so that the link becomes the path of the file. Words of
inline code never break. No page may load anything from another host.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.plugins.skysail")

_ROOT = Path(__file__).parents[2]

# The lookbehind leaves images alone.
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s:]+)(#[^)\s]*)?\)")

_LOADED = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
)

# Code in a block follows an empty span.
_INLINE_CODE = re.compile(r"(?<!<span></span>)<code>([^<\n]+)</code>")

_WORD = re.compile(r"(?<!\S)\S{2,56}(?!\S)")
"""A word that fits into one line of a small screen."""

_FROM_ROOT = {
    "changelog.md": "CHANGELOG.md",
    "security-policy.md": "SECURITY.md",
    "contributing/guide.md": "CONTRIBUTING.md",
}
"""Files at the root of the repository, by the page of the site that shows them."""

_PAGES = {"README.md": "index.md"} | {file: page for page, file in _FROM_ROOT.items()}
"""Pages of the site in place of files at the root of the repository."""


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that are files at the root of the repository."""
    # The tests import this module without mkdocs.
    from mkdocs.structure.files import File

    for page, file in _FROM_ROOT.items():
        files.append(File.generated(config, page, content=(_ROOT / file).read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Any, files: Any, **_: Any) -> str:
    """Return the text of a page with each link out of docs/ replaced."""
    uri = page.file.src_uri
    folder = posixpath.dirname(uri)
    is_from_root = uri in _FROM_ROOT
    origin = "" if is_from_root else posixpath.join("docs", folder)

    def replaced(found: re.Match[str]) -> str:
        label, target, heading = found.groups(default="")
        path = posixpath.normpath(posixpath.join(origin, target))
        instead = _PAGES.get(path)
        if instead is None and path.startswith("docs/"):
            if not is_from_root:
                return found[0]
            instead = path.removeprefix("docs/")
        if instead is not None and files.get_file_from_path(instead) is not None:
            # The front page of the site has other headings than the README.
            heading = "" if path == "README.md" else heading
            return f"[{label}]({posixpath.relpath(instead, folder or '.')}{heading})"
        plain = label.strip("`")
        return f"`{path}`" if plain.rstrip("/") == path else f"{label} (`{path}`)"

    return _LINK.sub(replaced, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Return the content of a page with each word of inline code marked, so that it stays whole."""

    def marked(found: re.Match[str]) -> str:
        words = _WORD.sub(lambda word: f'<span class="word">{word[0]}</span>', found[1])
        return f"<code>{words}</code>"

    return _INLINE_CODE.sub(marked, html)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Warn about each URL that a page loads from another host; a warning ends a strict build."""
    for url in _LOADED.findall(output):
        log.warning("page '%s' loads %s", page.file.src_uri, url)
    return output

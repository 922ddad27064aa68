"""What mkdocs does beyond its settings: links out of docs/, and a look at what pages load.

On GitHub a page links to files of the repository. The site has no such files, so that the link
becomes the path of the file. No page may load anything from another host.
"""

import logging
import posixpath
import re
from typing import Any

log = logging.getLogger("mkdocs.plugins.skysail")

# The lookbehind leaves images alone.
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")

_LOADED = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)"
)

_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "release-notes.md",
    "CONTRIBUTING.md": "contributing/index.md",
}
"""Pages of the site in place of files at the root of the repository."""


def on_page_markdown(markdown: str, *, page: Any, files: Any, **_: Any) -> str:
    """Return the text of a page with each link out of docs/ replaced."""
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(found: re.Match[str]) -> str:
        label, target, _ = found.groups()
        path = posixpath.normpath(posixpath.join("docs", folder, target))
        if path.startswith("docs/"):
            return found[0]
        instead = _PAGES.get(path)
        if instead is not None and files.get_file_from_path(instead) is not None:
            return f"[{label}]({posixpath.relpath(instead, folder or '.')})"
        plain = label.strip("`")
        return f"`{path}`" if plain.rstrip("/") == path else f"{label} (`{path}`)"

    return _LINK.sub(replaced, markdown)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Warn of what a page would load from another host, which ends a strict build."""
    for url in _LOADED.findall(output):
        log.warning("page '%s' loads %s", page.file.src_uri, url)
    return output

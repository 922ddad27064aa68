"""Writes the pages of docs/ that come from the code: `python -m docs.generate`, or `make docs`.

A test compares the pages with what it would write.
"""

from pathlib import Path

from docs.pages.commands import commands_page
from docs.pages.errors import errors_page
from docs.pages.protobuf import protobuf_pages
from docs.pages.settings import settings_page

DOCS = Path(__file__).parent


def pages() -> dict[str, str]:
    """Return the text of each generated page by its path below docs/."""
    protobuf = {f"protobuf/{name}": text for name, text in protobuf_pages().items()}
    return {
        "settings.md": settings_page(),
        "errors.md": errors_page(),
        "cli.md": commands_page(),
        **protobuf,
    }


def main() -> None:
    """Write every page."""
    for name, text in pages().items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()

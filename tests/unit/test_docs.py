"""The pages of docs/: their links, the generated ones, and the hooks of the site."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import skysail
from docs.generate import pages
from docs.pages.markdown import anchor
from docs.pages.protobuf import parse, protobuf_pages
from docs.site import hooks
from skysail_protos.inference import grpc_service_pb2
from skysail_protos.v1 import (
    management_pb2,
    model_server_pb2,
    query_pb2,
    routing_pb2,
    tensors_pb2,
)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = pages()
READMES = ["examples", "sdk", "services/*", "transport"]
PAGES = sorted(
    page
    for pattern in ["*.md", "docs/**/*.md", *(f"{folder}/README.md" for folder in READMES)]
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def headings(page: Path) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        yield re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in headings(page)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_a_file_and_to_a_heading_of_it(page: Path):
    text = prose(page)
    for target, heading in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{name(page)} links to {target}, which does not exist"
        # The site makes the headings of the Python API.
        if heading and place != DOCS / "python.md":
            assert heading in anchors(place), f"{target}#{heading} is no heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_headings_have_the_same_anchor_on_github_and_on_the_site(page: Path):
    for heading in headings(page):
        plain = re.sub(r"[^\w\s-]", "", heading).strip().lower()
        assert plain.replace(" ", "-") == anchor(heading)


@pytest.mark.parametrize("path", GENERATED)
def test_generated_pages_are_fresh(path: str):
    assert (DOCS / path).read_text() == GENERATED[path], f"run 'make docs': docs/{path} is old"


def test_the_page_of_the_python_api_has_every_exported_name():
    documented = set(re.findall(r"^::: skysail\.(\w+)$", (DOCS / "python.md").read_text(), re.M))
    assert documented == set(skysail.__all__) - {"__version__"}


PROTOS = {
    "management.md": management_pb2,
    "model-server.md": model_server_pb2,
    "open-inference.md": grpc_service_pb2,
    "query.md": query_pb2,
    "routing.md": routing_pb2,
    "tensors.md": tensors_pb2,
}


def test_each_proto_file_has_a_page():
    assert set(protobuf_pages()) == {"index.md", *PROTOS}


@pytest.mark.parametrize("page", PROTOS)
def test_the_page_of_a_proto_file_has_all_that_it_declares(page: str):
    text = protobuf_pages()[page]
    file = PROTOS[page].DESCRIPTOR
    for service in file.services_by_name.values():
        assert f"\n## {service.name}\n" in text
        for rpc in service.methods:
            assert f"\n| `{rpc.name}` | " in text
    for message in file.message_types_by_name.values():
        section = text.partition(f"\n### {message.name}\n")[2].partition("\n###")[0]
        assert section
        for field in message.fields:
            assert f"\n| {field.number} | `{field.name}` | " in section
    for enum in file.enum_types_by_name.values():
        section = text.partition(f"\n### {enum.name}\n")[2].partition("\n###")[0]
        for value in enum.values:
            assert f"\n| {value.number} | `{value.name}` | " in section


def test_declarations_of_a_proto_file_have_their_comments():
    file = parse(
        "// Of the file.\npackage a.b;\n\n// A service.\nservice S {\n  // Two\n  // lines.\n"
        "  rpc Call(stream Ask) returns (Answer);\n}\n// Asks.\nmessage Ask {\n  // A map.\n"
        "  map<string, Answer> by_name = 3;\n}\n// Answers.\nmessage Answer {}\n"
    )
    assert (file.package, file.comment) == ("a.b", "Of the file.")
    service, ask, answer = file.declarations
    (rpc,) = service.members
    assert (rpc.name, rpc.type, rpc.answer) == ("Call", "stream Ask", "Answer")
    assert rpc.comment == "Two lines."
    (member,) = ask.members
    assert (member.name, member.type, member.number) == ("by_name", "map<string, Answer>", "3")
    assert (answer.name, answer.members) == ("Answer", [])


FOLDERS = [
    "benchmarks",
    "docs",
    "examples",
    "k8s",
    "protos",
    "sdk",
    "services",
    "tests",
    "transport",
]
PATHS = [
    f"/{path.relative_to(ROOT).as_posix()}"
    for folder in FOLDERS
    for path in [ROOT / folder, *(ROOT / folder).rglob("*")]
]


def missing(paths: set[str]) -> set[str]:
    """Return the paths at which nothing of the repository ends."""
    return {
        path for path in paths if not any(each.endswith(f"/{path.strip('/')}") for each in PATHS)
    }


# The changelog names files of its time.
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "CHANGELOG"], ids=name)
def test_each_file_of_the_code_that_a_page_names_exists(page: Path):
    assert missing(set(re.findall(r"`([\w/]+\.(?:py|proto))`", page.read_text()))) == set()


def test_each_folder_that_the_glossary_names_exists():
    rows = re.findall(r"^\| \*\*.*\| (.*) \|$", (DOCS / "glossary.md").read_text(), re.M)
    named = {span for row in rows for span in re.findall(r"`([\w/]+/)`", row)}
    assert "ingress/" in named
    assert missing(named) == set()


class Files:
    """The pages of the site, as mkdocs hands them to a hook."""

    def __init__(self, *pages: str) -> None:
        self._pages = pages

    def get_file_from_path(self, path: str) -> object | None:
        return path if path in self._pages else None


def page_at(path: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=path))


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("store.md", "[tls](tls.md#clients)", "[tls](tls.md#clients)"),
        ("kubernetes/index.md", "[tls](../tls.md)", "[tls](../tls.md)"),
        ("docker.md", "[`compose.yaml`](../compose.yaml)", "`compose.yaml`"),
        ("kubernetes/index.md", "[k8s/](../../k8s)", "`k8s`"),
        (
            "kubernetes/index.md",
            "see [eks](../../k8s/examples/eks/kustomization.yaml).",
            "see eks (`k8s/examples/eks/kustomization.yaml`).",
        ),
        ("transports.md", "[README](../README.md#how-fast)", "[README](index.md)"),
        ("kubernetes/index.md", "[README](../../README.md)", "[README](../index.md)"),
        ("store.md", "[changes](../CHANGELOG.md)", "changes (`CHANGELOG.md`)"),
        ("store.md", "[report](../SECURITY.md#how)", "[report](security-policy.md#how)"),
        ("security-policy.md", "[page](docs/tls.md#clients)", "[page](tls.md#clients)"),
        ("contributing/guide.md", "[page](docs/tls.md)", "[page](../tls.md)"),
        ("contributing/guide.md", "[rules](SECURITY.md)", "[rules](../security-policy.md)"),
        ("contributing/guide.md", "[code](sdk/README.md)", "code (`sdk/README.md`)"),
        ("store.md", "[RFC](https://example.org/a)", "[RFC](https://example.org/a)"),
        ("store.md", "![picture](../picture.svg)", "![picture](../picture.svg)"),
    ],
)
def test_a_link_out_of_the_site_becomes_a_path(page: str, text: str, expected: str):
    files = Files("index.md", "tls.md", "security-policy.md")
    assert hooks.on_page_markdown(text, page=page_at(page), files=files) == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (
            "<p><code>skysail up --detach</code></p>",
            '<p><code><span class="word">skysail</span> <span class="word">up</span> '
            '<span class="word">--detach</span></code></p>',
        ),
        (f"<code>{'x' * 57}</code>", f"<code>{'x' * 57}</code>"),
        ("<pre><span></span><code>a block\n</code></pre>",) * 2,
    ],
    ids=["words", "a word longer than a line", "a block"],
)
def test_words_of_inline_code_stay_whole(html: str, expected: str):
    assert hooks.on_page_content(html) == expected


@pytest.mark.parametrize(
    ("html", "warned"),
    [
        ('<script src="assets/site.js"></script><a href="https://example.org">x</a>', False),
        ('<script src="https://example.org/site.js"></script>', True),
        ('<link rel="stylesheet" href="//example.org/fonts.css">', True),
    ],
)
def test_a_page_that_loads_from_another_host_is_warned_of(html: str, warned: bool, caplog):
    assert hooks.on_post_page(html, page=page_at("index.md")) == html
    assert bool(caplog.records) == warned

"""The pages of the gRPC interfaces, from the comments of the .proto files.

A test of the house checks that each declaration has a comment directly above it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from docs.pages.markdown import GENERATED, anchor, one_line

PROTOS = Path(__file__).parents[2] / "protos"

_FILES = {
    "query": ("v1/query.proto", "Queries"),
    "open-inference": ("inference/grpc_service.proto", "Open Inference Protocol"),
    "management": ("v1/management.proto", "Management"),
    "tensors": ("v1/tensors.proto", "Tensors"),
    "routing": ("v1/routing.proto", "Routing"),
    "model-server": ("v1/model_server.proto", "Model server"),
}
_AUDIENCES = {
    "query": "clients of frontends; the SDK uses it",
    "open-inference": "clients of the protocol, such as `tritonclient`",
    "management": "operators; the SDK, the command line and frontends use it",
    "tensors": "inputs and outputs in all other files",
    "routing": "routes, as management sends them to frontends",
    "model-server": "internal: between frontends and replicas",
}
_BLOCK = re.compile(r"(message|enum|service|oneof) (\w+) \{")
_RPC = re.compile(r"rpc (\w+)\((stream )?([\w.]+)\) returns \((stream )?([\w.]+)\)")
_MEMBER = re.compile(r"(?:(optional|repeated) )?(?:([\w.]+|map<[\w., ]+>) )?(\w+) = (\d+)")


@dataclass
class Declaration:
    """One declaration of a .proto file."""

    kind: str
    name: str
    comment: str
    type: str = ""
    answer: str = ""
    number: str = ""
    members: list["Declaration"] = field(default_factory=list)


@dataclass
class File:
    """What one .proto file declares at its top."""

    package: str
    comment: str
    declarations: list[Declaration]


def parse(text: str) -> File:
    """Return the declarations of a .proto file of Skysail, each with the comment above it."""
    root = Declaration("file", "", "")
    blocks = [root]
    package = head = ""
    above: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("//"):
            above.append(line[2:].strip())
            continue
        comment, above = " ".join(above), []
        if found := re.match(r"package ([\w.]+);", line):
            package, head = found[1], comment
        elif found := _RPC.match(line):
            asked, answer = (
                (stream or "") + name for stream, name in (found.groups()[1:3], found.groups()[3:5])
            )
            blocks[-1].members.append(Declaration("rpc", found[1], comment, asked, answer))
        elif found := _BLOCK.match(line):
            made = Declaration(found[1], found[2], comment)
            blocks[-1].members.append(made)
            if not line.endswith("}"):
                blocks.append(made)
        elif line == "}":
            blocks.pop()
        elif len(blocks) > 1 and (found := _MEMBER.match(line)):
            kind = " ".join(filter(None, found.groups()[:2]))
            blocks[-1].members.append(
                Declaration("member", found[3], comment, kind, number=found[4])
            )
    return File(package, head, root.members)


def protobuf_pages() -> dict[str, str]:
    """Return the pages of docs/protobuf/ by name."""
    files = {
        page: parse((PROTOS / "skysail_protos" / path).read_text())
        for page, (path, _) in _FILES.items()
    }
    places = {
        name: f"{page}.md#{anchor(name)}"
        for page, file in files.items()
        for name in _named(file.declarations)
    }
    pages = {"index.md": _index(files)}
    for page, file in files.items():
        pages[f"{page}.md"] = _page(page, file, places)
    return pages


def _named(declarations: list[Declaration], outer: str = "") -> Iterator[str]:
    for each in declarations:
        if each.kind in ("message", "enum"):
            yield f"{outer}{each.name}"
            yield from _named(each.members, f"{outer}{each.name}.")


def _index(files: dict[str, File]) -> str:
    lines = [
        "# Protobuf",
        "",
        "The sources are in `protos/skysail_protos/`. Every gRPC port serves reflection, so that",
        "`grpcurl -plaintext 127.0.0.1:8001 list` and generated clients need no file. Errors carry the",
        "name of their class in the trailing metadata `skysail-reason` ([errors](../errors.md)).",
        "",
        "| page | package | services | for |",
        "|---|---|---|---|",
    ]
    for page, file in files.items():
        services = [each.name for each in file.declarations if each.kind == "service"]
        lines.append(
            f"| [{_FILES[page][1]}]({page}.md) | `{file.package}` | "
            f"{', '.join(f'`{name}`' for name in services)} | {_AUDIENCES[page]} |"
        )
    lines += ["", GENERATED.format("the .proto files")]
    return "\n".join(lines) + "\n"


def _page(page: str, file: File, places: dict[str, str]) -> str:
    path, title = _FILES[page]
    lines = [f"# {title}", ""]
    lines += [f"Package `{file.package}`." + (f" {file.comment}" if file.comment else "")]
    here = {name: place.removeprefix(f"{page}.md") for name, place in places.items()}
    for service in (each for each in file.declarations if each.kind == "service"):
        lines += ["", f"## {service.name}", "", service.comment, ""]
        lines += ["| RPC | takes | returns | meaning |", "|---|---|---|---|"]
        for rpc in service.members:
            asked = _message_of(rpc, rpc.type, "request", here)
            answer = _message_of(rpc, rpc.answer, "response", here)
            lines.append(f"| `{rpc.name}` | {asked} | {answer} | {one_line(rpc.comment)} |")
    blocks = list(_blocks(file.declarations))
    for kind, heading in (("message", "Messages"), ("enum", "Enumerations")):
        chosen = [(name, each) for name, each in blocks if each.kind == kind]
        if chosen:
            lines += ["", f"## {heading}"]
        for name, each in chosen:
            lines += ["", f"### {name}", "", each.comment]
            lines += (_enum if kind == "enum" else _message)(each, name, here)
    lines += ["", GENERATED.format(f"protos/skysail_protos/{path}")]
    return "\n".join(lines) + "\n"


def _message_of(rpc: Declaration, text: str, role: str, places: dict[str, str]) -> str:
    """Return a message of an RPC; by its role if it has the usual name, which is long."""
    stream, _, name = text.rpartition(" ")
    usual = f"{rpc.name}{role.capitalize()}"
    label = role if name == usual else f"`{name}`"
    return f"{f'{stream} of ' if stream else ''}[{label}]({places[name]})"


def _blocks(declarations: list[Declaration], outer: str = "") -> Iterator[tuple[str, Declaration]]:
    for each in declarations:
        if each.kind in ("message", "enum"):
            yield f"{outer}{each.name}", each
            yield from _blocks(each.members, f"{outer}{each.name}.")


def _enum(enum: Declaration, name: str, places: dict[str, str]) -> list[str]:
    rows = [
        f"| {each.number} | `{each.name}` | {one_line(each.comment)} |" for each in enum.members
    ]
    return ["", "| number | name | meaning |", "|---|---|---|", *rows]


def _message(message: Declaration, name: str, places: dict[str, str]) -> list[str]:
    rows = []
    for each in message.members:
        if each.kind == "oneof":
            for member in each.members:
                meaning = f"{one_line(member.comment)} One of `{each.name}`."
                rows.append(_field(member, meaning, name, places))
        elif each.kind == "member":
            rows.append(_field(each, one_line(each.comment), name, places))
    if not rows:
        return []
    return ["", "| number | field | type | meaning |", "|---|---|---|---|", *rows]


def _field(member: Declaration, meaning: str, outer: str, places: dict[str, str]) -> str:
    return (
        f"| {member.number} | `{member.name}` | {_type(member.type, places, outer)} | {meaning} |"
    )


def _type(text: str, places: dict[str, str], outer: str) -> str:
    """Return a type as code, with a link to the page that explains it, if any."""
    label, _, name = text.rpartition(" ")
    inner = re.sub(r"map<\w+, ([\w.]+)>", r"\1", text if text.startswith("map<") else name)
    short = inner.removeprefix("skysail.v1.")
    place = places.get(f"{outer}.{short}") or places.get(short)
    if text.startswith("map<"):
        label, name = "", text
    code = f"`{name.removeprefix('google.protobuf.')}`"
    linked = f"[{code}]({place})" if place else code
    return f"{label} {linked}".strip()

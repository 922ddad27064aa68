import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import Descriptor

import skysail
import skysail.errors
import skysail_common.errors
from skysail_common import states, tensors
from skysail_common.errors import SkysailError, Status, all_errors
from skysail_frontend.core.query import Outcome
from skysail_frontend.settings import FrontendSettings
from skysail_management.events import DeployStep
from skysail_management.settings import ManagementSettings
from skysail_model_server.settings import ModelServerSettings
from skysail_protos.inference import grpc_service_pb2
from skysail_protos.v1 import (
    management_pb2,
    model_server_pb2,
    query_pb2,
    routing_pb2,
    tensors_pb2,
)

ROOT = Path(__file__).parents[2]


def sources() -> Iterator[Path]:
    for folder in ("services", "sdk"):
        for path in (ROOT / folder).rglob("*.py"):
            if "_pb2" not in path.name:
                yield path


def our_errors() -> list[type[SkysailError]]:
    names = "|".join(error.__name__ for error in all_errors())
    for path in sources():
        if re.search(rf"^class \w+\(({names})\)", path.read_text(), re.MULTILINE):
            parts = path.relative_to(ROOT).with_suffix("").parts
            importlib.import_module(".".join(parts[2:] if parts[0] == "services" else parts[1:]))
    return [error for error in all_errors() if error.__module__.startswith("skysail")]


OUR_ERRORS = our_errors()
SDK_MODULES = sorted(path.stem for path in (ROOT / "sdk/skysail").glob("*.py"))
SETTINGS = [FrontendSettings, ManagementSettings, ModelServerSettings]


@pytest.mark.parametrize("error", OUR_ERRORS, ids=lambda error: error.__name__)
def test_each_error_has_a_docstring_of_its_own_and_a_status(error):
    assert error.__dict__.get("__doc__")
    assert isinstance(error.status, Status)
    assert error.status not in (Status.OK, Status.CANCELLED)


@pytest.mark.parametrize("error", OUR_ERRORS, ids=lambda error: error.__name__)
def test_each_error_is_made_of_its_message_alone(error):
    assert error("what and which").message == "what and which"


def test_the_sdk_exports_every_class_of_errors():
    public = {
        name
        for name, value in vars(skysail_common.errors).items()
        if inspect.isclass(value) and issubclass(value, SkysailError | Status)
    }
    assert public == set(skysail.errors.__all__)
    for name in public:
        assert getattr(skysail.errors, name) is getattr(skysail_common.errors, name)
        # As a traceback names it.
        assert getattr(skysail.errors, name).__module__ == "skysail.errors"


def test_the_picture_of_the_errors_names_each_with_its_status():
    picture = skysail_common.errors.__doc__
    for error in OUR_ERRORS:
        if error.__name__ in skysail.errors.__all__:
            line = next(
                line for line in picture.splitlines() if re.search(rf"\b{error.__name__}\b", line)
            )
            status = line.split()[-1]
            assert status in (error.status.name, error.__name__)


def test_statuses_are_those_of_grpc():
    assert {status.name: status.value for status in Status} == {
        code.name: code.value[0] for code in grpc.StatusCode
    }


@pytest.mark.parametrize("name", SDK_MODULES)
def test_all_is_sorted_and_every_name_in_it_exists(name):
    if name == "__main__":
        return
    module = importlib.import_module("skysail" if name == "__init__" else f"skysail.{name}")
    exported = getattr(module, "__all__", [])
    assert list(exported) == sorted(set(exported))
    for each in exported:
        assert getattr(module, each) is not None


def public_methods(cls: type) -> dict[str, list[tuple[str, object, object]]]:
    return {
        name: [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(method).parameters.values()
        ]
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_both_clients_have_the_same_methods_with_the_same_parameters():
    asynchronous = public_methods(skysail.AsyncClient)
    del asynchronous["deploy_artifact"]
    assert public_methods(skysail.Client) == asynchronous


def test_every_module_says_what_it_is_for():
    assert [
        str(path) for path in sources() if not path.read_text().lstrip().startswith('"""')
    ] == []


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_every_setting_has_a_description(settings):
    assert [name for name, field in settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_settings_are_frozen_and_have_a_prefix_of_their_own(settings):
    assert settings.model_config["frozen"]
    assert settings.model_config["extra"] == "forbid"
    assert settings.model_config["env_prefix"].startswith("SKYSAIL_")
    prefixes = [each.model_config["env_prefix"] for each in SETTINGS]
    assert prefixes.count(settings.model_config["env_prefix"]) == 1


@pytest.mark.parametrize(
    ("ours", "wire", "prefix", "at_zero"),
    [
        (tensors.DataType, tensors_pb2.DataType, "DATA_TYPE_", None),
        (tensors.Content, tensors_pb2.Content, "CONTENT_", tensors.Content.BINARY),
        (tensors.InputType, tensors_pb2.InputType, "INPUT_TYPE_", None),
        (states.ReplicaState, management_pb2.ReplicaState, "REPLICA_STATE_", None),
        (DeployStep, management_pb2.DeployStep, "DEPLOY_STEP_", None),
        (Outcome, query_pb2.Outcome, "OUTCOME_", None),
    ],
)
def test_enums_are_those_of_the_protos(ours, wire, prefix, at_zero):
    expected = {prefix + each.name: each.value for each in ours if each is not at_zero}
    assert dict(wire.items()) == {f"{prefix}UNSPECIFIED": 0, **expected}


PROTOS = {
    "v1/management.proto": management_pb2,
    "v1/model_server.proto": model_server_pb2,
    "v1/query.proto": query_pb2,
    "v1/routing.proto": routing_pb2,
    "v1/tensors.proto": tensors_pb2,
    "inference/grpc_service.proto": grpc_service_pb2,
}
DECLARATION = re.compile(
    r"(?P<kind>message|enum|service|oneof|rpc) (?P<name>\w+)"
    r"|(?:[\w.<>, ]+ )?(?P<member>\w+) = \d+[ ;\[]"
)


def declarations(text: str) -> Iterator[tuple[str, str, bool]]:
    """Yield kind and full name of each declaration, and whether a comment is directly above."""
    blocks: list[str] = []
    above = ""
    for line in text.splitlines():
        line = line.strip()
        found = None if line.startswith("//") else DECLARATION.match(line)
        if found is not None:
            name = found["name"] or found["member"]
            yield found["kind"] or "member", ".".join([*blocks, name]), above.startswith("//")
            if found["kind"] != "rpc" and line.endswith("{"):
                blocks.append(name)
        elif line == "}":
            blocks.pop()
        above = line
    assert blocks == []


def names_in(messages: list[Descriptor], prefix: str = "") -> Iterator[str]:
    for message in messages:
        if message.GetOptions().map_entry:
            continue
        name = f"{prefix}{message.name}"
        yield name
        for field in message.fields:
            oneof = field.containing_oneof
            # The compiler makes one for each optional field.
            is_own = oneof is not None and oneof.name != f"_{field.name}"
            yield f"{name}.{oneof.name}.{field.name}" if is_own else f"{name}.{field.name}"
        yield from (f"{name}.{oneof.name}" for oneof in message.oneofs if oneof.name[0] != "_")
        yield from names_in(list(message.nested_types), f"{name}.")


def test_every_proto_file_is_checked():
    found = (ROOT / "protos/skysail_protos").rglob("*.proto")
    assert {path.relative_to(ROOT / "protos/skysail_protos").as_posix() for path in found} == set(
        PROTOS
    )


@pytest.mark.parametrize("file", PROTOS)
def test_every_declaration_of_a_proto_has_a_comment_directly_above(file):
    text = (ROOT / "protos/skysail_protos" / file).read_text()
    found = list(declarations(text))
    assert [name for _, name, is_commented in found if not is_commented] == []
    # What the descriptor holds was seen: the check cannot pass by reading nothing.
    descriptor = PROTOS[file].DESCRIPTOR
    expected = set(names_in(list(descriptor.message_types_by_name.values())))
    for enum in descriptor.enum_types_by_name.values():
        expected |= {enum.name, *(f"{enum.name}.{value.name}" for value in enum.values)}
    for service in descriptor.services_by_name.values():
        expected |= {service.name, *(f"{service.name}.{rpc.name}" for rpc in service.methods)}
    assert {name for _, name, _ in found} == expected


def test_a_declaration_without_a_comment_is_seen():
    text = "// Fine.\nmessage A {\n  // Fine.\n  string a = 1;\n  map<string, A> b = 2;\n}\n"
    assert [(name, fine) for _, name, fine in declarations(text)] == [
        ("A", True),
        ("A.a", True),
        ("A.b", False),
    ]


def test_our_errors_are_found_below_skysail_error():
    assert {skysail.errors.DeployFailed, skysail.errors.NoReadyReplica, SkysailError} <= set(
        OUR_ERRORS
    )

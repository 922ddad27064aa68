import pytest

from skysail_common import __version__
from skysail_common.errors import InvalidInput, ModelNotFound
from skysail_common.tensors import DataType, Signature, TensorSpec
from skysail_protos.inference import grpc_service_pb2 as pb
from unit.frontend.grpc_inference.calls import ask
from unit.frontend.parts import DOUBLES, Frontend, application, served


def test_the_server_is_live():
    call = ask(Frontend(), "ServerLive", pb.ServerLiveRequest())
    assert pb.ServerLiveResponse.FromString(call.answer).live


@pytest.mark.parametrize("is_ready", [True, False])
def test_the_readiness_of_the_server_is_answered(is_ready):
    call = ask(Frontend(), "ServerReady", pb.ServerReadyRequest(), is_ready=is_ready)
    assert pb.ServerReadyResponse.FromString(call.answer).ready is is_ready


def test_the_server_metadata_have_name_and_extensions():
    call = ask(Frontend(), "ServerMetadata", pb.ServerMetadataRequest())
    response = pb.ServerMetadataResponse.FromString(call.answer)
    assert (response.name, response.version) == ("our name", __version__)
    assert list(response.extensions) == ["schedule_policy"]


@pytest.mark.parametrize(
    ("name", "version", "is_ready"),
    [
        ("m", "", True),
        ("m", "1", True),
        ("m", "9", False),
        ("nope", "", False),
        ("lost", "", False),
        ("app", "", True),
        ("unrouted", "", False),
        ("dangling", "", False),
        ("app", "9", False),
    ],
)
def test_a_model_is_ready_while_it_has_a_ready_replica(name, version, is_ready):
    applications = [
        application("app", "m:"),
        application("unrouted"),
        application("dangling", "gone:1"),
    ]
    frontend = Frontend(served("m:1"), served("lost:1"), applications=applications)
    frontend.replicas[1].is_ready = False
    call = ask(frontend, "ModelReady", pb.ModelReadyRequest(name=name, version=version))
    assert call.error is None
    assert pb.ModelReadyResponse.FromString(call.answer).ready is is_ready


def test_the_model_metadata_have_inputs_and_outputs():
    spec = TensorSpec("words", DataType.BYTES, (-1, -1))
    version = served("m:1", Signature((spec,), DOUBLES.outputs))
    frontend = Frontend(version, served("m:2", is_current=False))
    call = ask(frontend, "ModelMetadata", pb.ModelMetadataRequest(name="m"))
    response = pb.ModelMetadataResponse.FromString(call.answer)
    assert response.name == "m"
    assert sorted(response.versions) == ["1", "2"]
    assert [(t.name, t.datatype, list(t.shape)) for t in response.inputs] == [
        ("words", "BYTES", [-1, -1])
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in response.outputs] == [
        ("y", "FP64", [-1, 3])
    ]


@pytest.mark.parametrize(
    ("name", "version", "beginning"),
    [
        ("nope", "", "Request for unknown model: 'nope' is not found"),
        ("m", "9", "Request for unknown model: 'm' version 9 is not found"),
        ("unrouted", "", "Request for unknown model: 'unrouted' has no available versions"),
    ],
)
def test_the_metadata_of_an_unknown_model_are_not_found(name, version, beginning):
    frontend = Frontend(served(), applications=[application("unrouted")])
    request = pb.ModelMetadataRequest(name=name, version=version)
    call = ask(frontend, "ModelMetadata", request)
    assert isinstance(call.error, ModelNotFound)
    assert call.error.message.startswith(beginning)


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelInfer"])
def test_garbage_is_refused_with_the_text_of_triton(method):
    call = ask(Frontend(), method, b"\xff\xff\xff")
    assert isinstance(call.error, InvalidInput)
    assert call.error.message.startswith("Unable to parse request")

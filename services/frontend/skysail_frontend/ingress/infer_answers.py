"""Answers of the Open Inference Protocol as protobuf messages."""

from skysail_common.tensors import TensorSpec
from skysail_frontend.core.query import Prediction, Query
from skysail_frontend.ingress.outputs import output_tensors
from skysail_protos.inference import grpc_service_pb2 as pb


def infer_response(
    query: Query, prediction: Prediction, wanted: frozenset[str]
) -> pb.ModelInferResponse:
    """Return the answer to a query, with all outputs or the wanted ones."""
    model_name, version = query.version.name if query.version else ("", "")
    response = pb.ModelInferResponse(
        model_name=model_name, model_version=version, id=query.query_id
    )
    for tensor in output_tensors(query, prediction):
        if wanted and tensor.name not in wanted:
            continue
        response.outputs.add(name=tensor.name, datatype=tensor.datatype.name, shape=tensor.shape)
        response.raw_output_contents.append(tensor.data)
    if prediction.is_default:
        # Clients of this protocol must be able to recognise a default output too.
        response.parameters["skysail_outcome"].string_param = prediction.outcome.name
        response.parameters["skysail_explanation"].string_param = prediction.explanation
    return response


def tensor_metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    """Return the metadata of one input or output."""
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype.name, shape=spec.shape
    )

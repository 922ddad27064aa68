"""Query a model with Triton's own client; argument: the gRPC address of a frontend."""

import sys

import numpy as np
import tritonclient.grpc as triton

import skysail


def normalize(rows):
    """Return each row scaled to the length 1, float32 [batch, 3]."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


vectors = np.array([[3, 4, 0], [0, 5, 12]], np.float32)
with skysail.Client() as client:
    client.deploy(normalize, name="normalize", example=vectors)

server = triton.InferenceServerClient(*sys.argv[1:] or ["127.0.0.1:8001"])
print(server.get_model_metadata("normalize").inputs[0].shape)
tensor = triton.InferInput("rows", list(vectors.shape), "FP32")
tensor.set_data_from_numpy(vectors)
print(server.infer("normalize", [tensor]).as_numpy("output").round(3))

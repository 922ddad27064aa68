"""Settings of TensorFlow for one replica, and its types, for Keras and SavedModel."""

import os
from typing import Any

import numpy as np

from skysail_common.errors import FailedPrecondition
from skysail_common.loaders.base import ModelContext
from skysail_common.tensors import Content, DataType, TensorSpec


def prepare(context: ModelContext) -> Any:
    """Return the module of TensorFlow, in a replica set to its device and number of threads.

    Raises:
        FailedPrecondition: TensorFlow sees no such device.
    """
    # The C++ part logs its start to the standard error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow

    device = context.device
    gpus = tensorflow.config.list_physical_devices("GPU")
    if device.startswith("cuda") and not gpus:
        raise FailedPrecondition(
            f"cannot load the model on {device}: TensorFlow {tensorflow.__version__} sees no GPU; "
            "deploy with gpus=0, or add tensorflow[and-cuda] to pkgs_to_install"
        )
    if not context.owns_process:
        return tensorflow
    try:
        if not device.startswith("cuda"):
            tensorflow.config.set_visible_devices([], "GPU")
        for gpu in gpus if device.startswith("cuda") else []:
            tensorflow.config.experimental.set_memory_growth(gpu, True)
        tensorflow.config.threading.set_intra_op_parallelism_threads(max(1, context.num_threads))
    # Code of the user that was loaded before runs TensorFlow already, with its own settings.
    except RuntimeError:
        pass
    return tensorflow


def spec_of(name: str, dtype: str, shape: "tuple[int | None, ...]") -> TensorSpec:
    """Return the specification of a tensor [batch, …] of a type such as `float32` or `string`.

    Raises:
        InvalidInput: no datatype holds the type.
    """
    sizes = tuple(-1 if size is None else size for size in shape[1:])
    if dtype == "string":
        return TensorSpec(name, DataType.BYTES, (-1, *sizes), Content.TEXT)
    datatype = DataType.BF16 if dtype == "bfloat16" else DataType.of(np.dtype(dtype))
    return TensorSpec(name, datatype, (-1, *sizes))

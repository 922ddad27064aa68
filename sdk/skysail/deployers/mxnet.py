"""The deployer of MXNet models, which refuses them."""

from typing import Any, NoReturn

from skysail.errors import Unsupported


def deploy_mxnet_model(*arguments: Any, **options: Any) -> NoReturn:
    """Refuse a model of MXNet.

    Args:
        *arguments: As of Clipper's function.
        **options: As of Clipper's function.

    Raises:
        Unsupported: always.
    """
    raise Unsupported(
        "cannot deploy a model of MXNet: the project is retired, and no supported Python runs it; export "
        "the model to ONNX and deploy the .onnx file"
    )


create_endpoint = deploy_mxnet_model

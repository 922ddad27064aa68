"""The packager of modules of torch."""

from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions, type_modules
from skysail.packaging.pins import pinned, pinned_for
from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import ModelContext
from skysail_common.loaders.torch_module import TorchModule
from skysail_common.loaders.torch_tensors import evaluating
from skysail_common.model_functions import Function


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a module travels: its code and its weights, as a pickle.

    Raises:
        InvalidInput: the module lacks the method.
    """
    if "torch" not in type_modules(source):
        return None
    import torch

    if not isinstance(source, torch.nn.Module) or isinstance(source, torch.jit.ScriptModule):
        return None
    module: Any = source
    # torch.compile wraps a module, and its code cannot be pickled; replicas may compile again.
    while hasattr(module, "_orig_mod"):
        module = module._orig_mod
    if options.method and not callable(getattr(module, options.method, None)):
        raise InvalidInput(
            f"cannot deploy {type(module).__name__}: it has no method {options.method!r}; correct "
            "method="
        )
    model = TorchModule(module, options.method or "")

    def open_module(context: ModelContext) -> Function:
        def predict(*args: Any, **kwargs: Any) -> Any:
            with evaluating(module):
                return model.predict(*args, **kwargs)

        predict.__signature__ = model.parameters()  # type: ignore[attr-defined]
        return predict

    classes = {type(each).__module__ for each in module.modules()}
    return Packaged(
        open=open_module,
        pickled=model,
        options={"method": "predict"},
        requirements=tuple(dict.fromkeys([*pinned("torch"), *pinned_for(classes)])),
    )

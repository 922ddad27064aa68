"""TorchScript programs, as `torch.jit.save` writes them."""

import inspect
import warnings
from typing import Any

from typing_extensions import override

from skysail_common.loaders import torch_tensors
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.model_functions import Function

SCRIPT_FILE = "model.pt"


class TorchScriptLoader(Loader):
    """The loader of a TorchScript program, which needs no code of the user.

    Options:
        method: Method that answers; absent to call the program.
        file: Name of the file; absent for that in an artifact.
    """

    _module: Any = None

    @override
    def load(self, context: ModelContext) -> Function:
        import torch

        torch_tensors.prepare(context)
        with warnings.catch_warnings():
            # The program exists already, so that the advice to export another one is useless.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            file = context.data(self.options.get("file", SCRIPT_FILE))
            module = torch.jit.load(str(file), map_location=context.device)
        self._module = module.eval()
        method = getattr(module, self.options["method"]) if "method" in self.options else module

        def predict(*args: Any, **kwargs: Any) -> Any:
            return torch_tensors.call(module, method, args, kwargs)

        return predict

    def parameters(self) -> inspect.Signature:
        """Return the parameters of the loaded program."""
        method = getattr(self._module, self.options.get("method", "forward"))
        _, *arguments = method.schema.arguments
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature([inspect.Parameter(each.name, kind) for each in arguments])

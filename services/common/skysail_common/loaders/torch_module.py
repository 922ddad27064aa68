"""Modules of torch, which travel as pickles."""

import inspect
from typing import Any

from skysail_common.loaders import torch_tensors
from skysail_common.loaders.base import ModelContext


class TorchModule:
    """A module that answers arrays, on the device of the replica."""

    def __init__(self, module: Any, method: str = "") -> None:
        """Hold a module.

        Args:
            module: The module.
            method: Method that answers; empty to call the module.
        """
        self.module = module
        self.method = method

    def load(self, context: ModelContext) -> None:
        """Move the module to the device, for evaluation."""
        torch_tensors.prepare(context)
        self.module.to(context.device).eval()

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs [batch, …] of the module for arrays [batch, …]."""
        method = getattr(self.module, self.method) if self.method else self.module
        return torch_tensors.call(self.module, method, args, kwargs)

    def parameters(self) -> inspect.Signature | None:
        """Return the parameters of the method that answers; None if it does not tell them."""
        try:
            return inspect.signature(getattr(self.module, self.method or "forward"))
        except (TypeError, ValueError):
            return None

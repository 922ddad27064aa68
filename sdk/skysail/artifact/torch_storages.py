"""Pickling of the storages of torch tensors, which support no buffers of protocol 5 themselves.

    Tensor, Parameter ──► TypedStorage, UntypedStorage ──► _Memory ──► PickleBuffer
      by torch itself       with the data type               one for all tensors that share it

Torch alone would copy each storage into the pickle, once for each tensor that shares it.
"""

import pickle
from typing import Any

from skysail_common import captured

_MODULE = "torch.storage"
_UNTYPED, _TYPED = "UntypedStorage", "TypedStorage"


class TorchStorages:
    """The storages of one pickle."""

    def __init__(self) -> None:
        # Each tensor has other objects for a shared storage, and the pickle needs a single one.
        self._memories: dict[int, _Memory] = {}

    def reduced(self, obj: Any) -> Any:
        """Return the reduction of a storage; NotImplemented for another object."""
        cls = type(obj)
        if cls.__module__ != _MODULE or cls.__name__ not in (_TYPED, _UNTYPED):
            return NotImplemented
        import torch

        is_typed = cls.__name__ == _TYPED
        untyped = obj._untyped_storage if is_typed else obj
        memory = self._memories.setdefault(untyped._cdata, _Memory(untyped))
        # Torch, too, loads an untyped storage as one of bytes.
        return captured.typed_storage, (memory, obj.dtype if is_typed else torch.uint8)


class _Memory:
    """The memory of a storage."""

    def __init__(self, untyped: Any) -> None:
        # A reference keeps the storage alive, because its address identifies it.
        self._untyped = untyped

    def __reduce__(self) -> tuple[Any, ...]:
        import torch

        # The replica chooses the device, so that a storage on a GPU travels as one in main memory.
        there = self._untyped.cpu()
        content = torch.empty(0, dtype=torch.uint8).set_(there).numpy()
        return captured.untyped_storage, (pickle.PickleBuffer(content),)

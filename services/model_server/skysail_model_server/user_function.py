"""The user's function with its signature: one call of it, and the outputs in its result."""

import json
from collections.abc import Sequence
from typing import Any, cast

from skysail_common.call_style import CallStyle
from skysail_common.frames.columns import FrameBuilder
from skysail_common.frames.packing import unpacked_arrays
from skysail_common.model_functions import (
    Function,
    call_coroutine_function,
    call_function,
    checked_outputs,
    named_outputs,
)
from skysail_common.row_outputs import row_outputs
from skysail_common.tensors import Array, Signature
from skysail_model_server.forks import ForkGuard


class UserFunction:
    """The user's function, which maps inputs to outputs as its signature says.

    A fork that the function makes ends with the call in which it began.
    """

    def __init__(
        self,
        function: Function,
        style: CallStyle,
        signature: Signature,
        frames: FrameBuilder | None = None,
    ) -> None:
        self.style = style
        self.signature = signature
        self._function = function
        self._frames = frames
        self._names = [spec.name for spec in signature.inputs]
        self._forks = ForkGuard()

    @property
    def takes_list(self) -> bool:
        """True if the function takes a list with one element per row, whose sizes may differ."""
        return self.style.calling == "list"

    def call(self, inputs: Sequence[object], params: str = "") -> Any:
        """Return the result of one call, in the thread of the caller.

        Args:
            inputs: Inputs in the order of the signature: arrays [batch, …], or one row of each
                without the batch axis; one list, or one element, if the function takes a list.
            params: Parameters as a JSON object; empty for none.

        Raises:
            BaseException: whatever the function raises.
        """
        given = self._given(inputs)
        try:
            result = call_function(self._function, self.style.calling, given, self._params(params))
        except BaseException as error:
            self._forks.end_here(error)
            raise
        self._forks.end_here()
        return result

    async def call_coroutine(self, inputs: Sequence[object], params: str = "") -> Any:
        """Return the result of one call of a coroutine function; see `call`."""
        given = self._given(inputs)
        try:
            result = await call_coroutine_function(
                self._function, self.style.calling, given, self._params(params)
            )
        except BaseException as error:
            self._forks.end_here(error)
            raise
        self._forks.end_here()
        return result

    def outputs(self, result: Any, num_rows: int) -> list[Array]:
        """Return the outputs [batch, …] in a result, in the order of the signature.

        Raises:
            ModelFailed: the result does not fit the signature.
        """
        outputs = named_outputs(result, self.style.calling)
        return checked_outputs(outputs, self.signature.outputs, num_rows)

    def row_outputs(self, result: Any) -> list[Array]:
        """Return the outputs in the result for one row, with a batch axis of size 1.

        Raises:
            ModelFailed: the result does not fit the signature.
        """
        outputs = row_outputs(result, self.style.calling)
        return checked_outputs(outputs, self.signature.outputs, 1)

    def _given(self, inputs: Sequence[object]) -> dict[str, Any]:
        """Return the inputs in the form for `call_function`."""
        if self.takes_list and self.style.batch:
            # The function may change its list.
            inputs = [list(cast(Sequence[object], inputs[0]))]
        if self._frames is None:
            return dict(zip(self._names, inputs, strict=True))
        packed = cast(Sequence[Array], inputs)
        if len(packed) == 1 and packed[0].ndim > 1:
            return {"frame": self._frames.build_matrix(packed[0])}
        return {"frame": self._frames.build(unpacked_arrays(self.signature, packed))}

    def _params(self, params: str) -> dict[str, Any] | None:
        if not self.style.takes_params:
            return None
        # Each call gets a dictionary of its own, because the function may change it.
        return cast(dict[str, Any], json.loads(params)) if params else {}

"""A function called as its style says, to learn its signature, here or in a replica."""

from collections.abc import Mapping
from typing import Any

from skysail_common.call_style import CallStyle
from skysail_common.model_functions import Function, call_function, named_outputs
from skysail_common.process.coroutine_thread import finished
from skysail_common.row_outputs import joined_outputs, row_outputs
from skysail_common.tensors import Array


class LocalFunction:
    """A function of this process with its style of calls; its signature may be unknown."""

    def __init__(self, function: Function, style: CallStyle) -> None:
        self.function = function
        self.style = style

    def outputs(self, inputs: Mapping[str, Any], num_rows: int) -> dict[str, Array]:
        """Return the outputs [batch, …] for inputs [batch, …] by name.

        Args:
            inputs: Arrays [batch, …] by name; one list if the function takes a list.
            num_rows: Rows of the inputs.

        Raises:
            ModelFailed: the result is not made of arrays of numbers or texts.
            Exception: the exception of the function.
        """
        calling = self.style.calling
        if self.style.batch:
            return named_outputs(self.call(inputs), calling)
        rows = ({name: values[row] for name, values in inputs.items()} for row in range(num_rows))
        return joined_outputs([row_outputs(self.call(row), calling) for row in rows])

    def call(self, inputs: Mapping[str, Any]) -> Any:
        """Return the result of one call, without parameters."""
        params: dict[str, Any] | None = {} if self.style.takes_params else None
        result = call_function(self.function, self.style.calling, inputs, params)
        return finished(result) if self.style.is_async else result

"""Calls of a coroutine function, side by side on one event loop that lives as long as the replica."""

import asyncio
from collections.abc import Iterator, Sequence
from types import FrameType

from skysail_common.process.coroutine_thread import close_coroutine_thread, coroutine_thread
from skysail_model_server.calls.base import Answers
from skysail_model_server.calls.single_calls import FunctionCall, Outcome, SingleCalls
from skysail_model_server.user_function import UserFunction
from skysail_model_server.user_stacks import waiting_frames


class CoroutineCalls(SingleCalls):
    """One coroutine for each query, or with `batch=False` for each row."""

    def __init__(self, function: UserFunction) -> None:
        """Start the event loop."""
        super().__init__(function)
        # The thread also runs coroutines of the loader, so that a client that `load` opens belongs to
        # the same event loop.
        self._thread = coroutine_thread()

    def _outcomes(self, calls: Sequence[FunctionCall], answers: Answers) -> Iterator[Outcome]:
        results = self._thread.run(self._side_by_side(calls, answers))
        return map(self._outcome, calls, results)

    def _outcome(self, call: FunctionCall, result: object) -> Outcome:
        if isinstance(result, _Failure):
            return result.error
        try:
            return self._outputs(call, result)
        except BaseException as error:
            return error

    async def _side_by_side(self, calls: Sequence[FunctionCall], answers: Answers) -> list[object]:
        slots = asyncio.Semaphore(self._function.style.max_concurrency)

        async def result_of(call: FunctionCall) -> object:
            async with slots:
                answers.call_began()
                try:
                    return await self._function.call_coroutine(call.selected(), call.params)
                # User code may also cancel its own task, or raise SystemExit, which would end the loop.
                except BaseException as error:
                    return _Failure(error)
                finally:
                    answers.call_began()

        # A task whose cancellation is still pending at its end raises in spite of the handler.
        found = await asyncio.gather(*map(result_of, calls), return_exceptions=True)
        return [_Failure(each) if isinstance(each, BaseException) else each for each in found]

    def waiting_frames(self) -> list[FrameType]:
        """Return the frames of a coroutine that waits (see `Calls`)."""
        return waiting_frames(self._thread.loop)

    def close(self) -> None:
        """Cancel what is left on the event loop, and end it."""
        close_coroutine_thread()


class _Failure:
    """The error of a call."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

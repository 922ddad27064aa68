import asyncio
from urllib.parse import quote

import numpy as np
import pytest

from skysail_common.errors import InvalidInput, ModelNotFound, Status, Unavailable
from unit.model_server.execution.batches import query, run


def raises(error: BaseException):
    def function(x):
        raise error

    return function


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (GeneratorExit(), "GeneratorExit"),
        (MemoryError(), "MemoryError"),
        (RecursionError("deep"), "RecursionError: deep"),
        (Mute(), "Mute"),
        (ValueError("half a pair: \ud800"), "ValueError: half a pair: ?"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 1988),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_any_exception_of_user_code_fails_only_its_query(error, message):
    (found,) = run(raises(error), [query(1)])
    assert found.code == Status.INTERNAL
    assert found.message.startswith(f"{message} (in function, test_errors.py line ")


@pytest.mark.parametrize(
    "error", [InvalidInput("too dark"), ModelNotFound("model 'x' is not registered"), Unavailable()]
)
def test_an_error_of_skysail_that_the_function_raises_is_a_failure_of_the_model(error):
    (found,) = run(raises(error), [query(1)])
    assert found.code == Status.INTERNAL
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    text = f"{what} (in function, test_errors.py line "
    assert found.message.startswith(text)


@pytest.mark.parametrize("text", ["x", "日", "\U0001f600"])
def test_the_text_of_an_error_fits_into_metadata_in_any_script(text):
    def function(x):
        exec(
            compile(f"def {'日' * 1000}(): raise ValueError(text)", "日" * 80 + ".py", "exec"),
            names,
        )
        names["日" * 1000]()

    names = {"text": text * 10_000}
    (found,) = run(function, [query(1)])
    # gRPC percent-encodes the message, and peers refuse metadata beyond 8 KiB.
    assert 2_000 < len(quote(found.message, safe="")) < 7_500
    assert found.message.endswith(")")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((1, 2)), "returned 1 rows in output 'output' for 2 rows"),
        (np.zeros((3, 2)), "returned 3 rows"),
        (np.float64(1), "returned a single value"),
        (np.zeros((2, 3)), "returned shape [2, 3] in output 'output'; its signature says [-1, 2]"),
        (np.zeros(2), "returned shape [2]"),
        ([["a", "b"]] * 2, "returned texts in output 'output'; its signature says FP64"),
        (np.zeros((2, 2), complex), "has numpy type complex128"),
        ({"other": np.zeros((2, 2))}, "returned 'other' but not output 'output'"),
        (None, "the function returned None"),
        ([[1.0], [2.0, 3.0]], "is not an array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_result_that_breaks_the_signature_fails(result, message):
    (found,) = run(lambda x: result, [query(1, 2)])
    assert found.code == Status.INTERNAL
    assert message in found.message


def test_long_texts_of_errors_are_cut_by_their_bytes_between_characters():
    (found,) = run(raises(ValueError("日" * 5000)), [query(1)])
    text, _, place = found.message.partition(" (in function")
    assert place
    assert text == "ValueError: " + "日" * ((2000 - len("ValueError: ")) // 3)

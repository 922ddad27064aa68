"""The bound on answers: the same at every door, and told by the same error."""

from skysail_common.errors import ModelFailed


def check_size(num_bytes: int, max_bytes: int) -> None:
    """Return if an answer of that many bytes may be sent.

    Raises:
        ModelFailed: it is larger than any answer may be. Raised by what settles a query, it is
            what the query is settled with instead.
    """
    if num_bytes > max_bytes:
        raise ModelFailed(f"the answer is {num_bytes} bytes; the limit is {max_bytes}")


def checked(answer: bytes, max_bytes: int) -> bytes:
    """Return an answer that may be sent.

    Raises:
        ModelFailed: as `check_size`.
    """
    if len(answer) > max_bytes:
        check_size(len(answer), max_bytes)
    return answer

"""The size limit of answers, which all doors share."""

from skysail_common.errors import ModelFailed


def check_size(num_bytes: int, max_bytes: int) -> None:
    """Check that an answer of that many bytes may be sent.

    Raises:
        ModelFailed: the answer exceeds the limit. If the callback that settles a query raises it,
            the error becomes the outcome of the query.
    """
    if num_bytes > max_bytes:
        raise ModelFailed(f"the answer is {num_bytes} bytes; the limit is {max_bytes}")


def checked(answer: bytes, max_bytes: int) -> bytes:
    """Return an answer after checking its size.

    Raises:
        ModelFailed: as `check_size`.
    """
    if len(answer) > max_bytes:
        check_size(len(answer), max_bytes)
    return answer
